"""Damage that lenient decoders pass over, one file a format: each raises Unreadable or returns nothing."""

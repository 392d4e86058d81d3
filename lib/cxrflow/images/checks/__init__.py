"""Damage that lenient decoders pass over, one file a format: each raises DecodeError or returns nothing."""

"""Detect damage that decoders ignore. One file per format; each check raises DecodeError or returns nothing."""

"""Foundations that every other package uses: errors, configuration, storage, manifests and leases."""

"""The cache on disk: columns of values per image, found by content hash."""

"""HTTP: authentication, limits, routes (one file a noun, the nouns of protocol/) and the item stream."""

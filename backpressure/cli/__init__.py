"""The ``pace`` command line: thin wrappers that turn flags into settings and hand them to the package."""

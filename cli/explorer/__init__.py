"""The explorer: pages, an API and sandboxed SQL over a public copy of the store."""

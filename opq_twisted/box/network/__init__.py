"""The HTTP client for the update server: addresses, proxies, redirects, headers and bodies."""

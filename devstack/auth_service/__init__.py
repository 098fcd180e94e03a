"""The local auth service: validates API keys, and says who owns them.

It replaces another team's auth service on a developer's machine and in the tests, over the same
HTTP. It is not for production: see README.md beside this file.
"""

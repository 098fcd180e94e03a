"""The local auth service: says whether an API key is valid, and whose it is.

It stands in for another team's auth service on a developer's machine and in the tests, over the
same HTTP. It is not for production: see README.md beside this file.
"""

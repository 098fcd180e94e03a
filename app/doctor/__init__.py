"""Checks of a deployment from outside, with nothing but its address and a key.

`flask doctor` and two of the scripts in scripts/ consist of these checks. Of app/ they use only the
catalogue of faults (app/health/faults.py), so they run anywhere with `requests`.
"""

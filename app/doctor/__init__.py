"""Checks of a deployment from outside, with nothing but its address and a key.

`flask doctor` and the programs in scripts/ consist of these checks. Of app/ they use only the
catalogue of faults (app/health/faults.py), so they run anywhere with `requests`; sdk.py and
registration.py also need MLflow's SDK.
"""

"""What a deployment looks like from outside: only its address and a key are known.

`flask doctor` and the three scripts in scripts/ are made of these checks. It imports nothing of
app/, and no MLflow: whoever holds a key can run it, with `requests` as all it needs.
"""

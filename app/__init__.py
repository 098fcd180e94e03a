"""The Hokusai MLflow proxy. app/factory.py assembles it; app/proxy.py is the way of a request."""

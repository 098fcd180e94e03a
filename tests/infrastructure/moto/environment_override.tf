# For moto, in a scratch copy of an environment only.

terraform {
  backend "local" {}
}

# A Redis is never ready there, and apply waits; the module is told of one that exists already.
module "mlflow" {
  create_redis         = false
  redis_auth_token     = null
  redis_url_secret_arn = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:redis-mock"
}

# What differs from one account to the next. Values: terraform.tfvars, made from the example beside
# this file. What each one means: ../../variables.tf.

variable "region" {
  type = string
}

variable "availability_zones" {
  type = list(string)
}

variable "vpc_id" {
  type = string
}

variable "private_subnet_ids" {
  type = list(string)
}

variable "public_subnet_ids" {
  type    = list(string)
  default = []
}

variable "existing_alb" {
  type = object({
    listener_arn      = string
    arn_suffix        = string
    security_group_id = string
    idle_timeout      = number
  })
  default = null
}

variable "listener_rule_priority_offset" {
  type    = number
  default = 0
}

variable "certificate_arn" {
  type    = string
  default = null
}

variable "public_host" {
  type    = string
  default = null
}

variable "proxy_image" {
  type = string
}

variable "mlflow_image" {
  type = string
}

variable "ecr_repository_arns" {
  type    = list(string)
  default = []
}

variable "auth_service_url" {
  type = string
}

variable "proxy_secret_arns" {
  type = map(string)
}

variable "mlflow_backend_store_secret_arn" {
  type = string
}

variable "mlflow_database" {
  type = object({
    security_group_id = string
    port              = number
  })
  default = null
}

variable "mlflow_artifact_bucket" {
  type = string
}

variable "create_redis" {
  type    = bool
  default = true
}

variable "redis_auth_token" {
  type      = string
  default   = null
  sensitive = true
}

variable "redis_url_secret_arn" {
  type    = string
  default = null
}

variable "redis_security_group_id" {
  type    = string
  default = null
}

variable "alarm_emails" {
  type    = list(string)
  default = []
}

# --- where ---------------------------------------------------------------------------------------

variable "environment" {
  type        = string
  description = "Part of every name: hokusai-<environment>, and of MLflow's private name."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,14}[a-z0-9]$", var.environment))
    error_message = "Use 3 to 16 lower-case letters, digits and hyphens, such as development."
  }
}

variable "region" {
  type        = string
  description = "The AWS region, such as eu-central-1."

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "This is not the name of a region."
  }
}

variable "availability_zones" {
  type        = list(string)
  description = "The zones of the private subnets, for Redis; two or more."

  validation {
    condition     = length(distinct(var.availability_zones)) >= 2
    error_message = "Two different availability zones are needed."
  }
  validation {
    condition     = alltrue([for zone in var.availability_zones : startswith(zone, var.region)])
    error_message = "The availability zones must be of the region."
  }
}

variable "vpc_id" {
  type        = string
  description = "The VPC. It needs DNS support and DNS host names switched on, for the private names."
}

variable "private_subnet_ids" {
  type        = list(string)
  description = "Subnets of the tasks and of Redis, in two zones or more, with a way to AWS's services (NAT or VPC endpoints)."

  validation {
    condition     = length(distinct(var.private_subnet_ids)) >= 2
    error_message = "Two different subnets are needed."
  }
}

variable "public_subnet_ids" {
  type        = list(string)
  description = "Subnets of the load balancer; empty with existing_alb."
  default     = []
}

# --- load balancer -------------------------------------------------------------------------------

variable "existing_alb" {
  type = object({
    listener_arn      = string # of the HTTPS listener that gets the rules
    arn_suffix        = string # app/name/id, for metrics
    security_group_id = string
    idle_timeout      = number # seconds, as it is set there
  })
  description = "A load balancer that is there already; null makes one. Its other attributes are its owner's to set: strictest desync mode, invalid headers dropped, X-Forwarded-For appended to."
  default     = null

  validation {
    condition     = var.existing_alb == null || try(var.existing_alb.idle_timeout == local.timeouts.alb_idle, false)
    error_message = "The existing load balancer's idle time-out must be timeouts.alb_idle of routes.json; set it there, or all time-outs that depend on it."
  }
}

variable "certificate_arn" {
  type        = string
  description = "The certificate for the public host, in ACM; not needed with existing_alb."
  default     = null
}

variable "tls_policy" {
  type        = string
  description = "The HTTPS listener's policy."
  default     = "ELBSecurityPolicy-TLS13-1-2-2021-06"

  validation {
    condition = contains([
      "ELBSecurityPolicy-TLS13-1-2-2021-06",
      "ELBSecurityPolicy-TLS13-1-2-Res-2021-06",
      "ELBSecurityPolicy-TLS13-1-3-2021-06",
    ], var.tls_policy)
    error_message = "Choose a policy that wants TLS 1.2 or newer: ELBSecurityPolicy-TLS13-1-2-2021-06, …-1-2-Res-2021-06 or …-1-3-2021-06."
  }
}

variable "alb_ingress_cidrs" {
  type        = list(string)
  description = "Who may reach the load balancer."
  default     = ["0.0.0.0/0"]
}

variable "alb_deletion_protection" {
  type        = bool
  description = "Whether the load balancer must be unlocked before it can be deleted."
  default     = true
}

variable "alb_access_logs_bucket" {
  type        = string
  description = "A bucket for the load balancer's access logs; null writes none."
  default     = null
}

variable "public_host" {
  type        = string
  description = "The host that clients use; null takes the one of routes.json."
  default     = null
}

variable "listener_rule_priority_offset" {
  type        = number
  description = "Added to the priorities of routes.json, to fit between an existing listener's rules."
  default     = 0

  validation {
    condition     = var.listener_rule_priority_offset >= 0 && floor(var.listener_rule_priority_offset) == var.listener_rule_priority_offset
    error_message = "The offset must be a whole number, 0 or more."
  }
}

# --- proxy ---------------------------------------------------------------------------------------

variable "proxy_image" {
  type        = string
  description = "The proxy's image, with a version or digest."

  validation {
    condition     = can(regex("(:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$", var.proxy_image)) && !endswith(var.proxy_image, ":latest")
    error_message = "Name a version or digest, not latest: a rollback must know what to go back to."
  }
}

variable "proxy_user" {
  type        = string
  description = "The user and group, by number, that the proxy runs as."
  default     = "10001:10001"

  validation {
    condition     = can(regex("^[1-9][0-9]*(:[1-9][0-9]*)?$", var.proxy_user))
    error_message = "Give numbers other than 0, such as 10001:10001."
  }
}

variable "proxy_cpu" {
  type        = number
  description = "A proxy task's processor share; 1024 is one core."
  default     = 1024
}

variable "proxy_memory" {
  type        = number
  description = "A proxy task's memory in MiB."
  default     = 2048
}

variable "proxy_min_tasks" {
  type        = number
  description = "Proxy tasks at least."
  default     = 2

  validation {
    condition     = var.proxy_min_tasks >= 1 && var.proxy_min_tasks <= var.proxy_max_tasks
    error_message = "It must be at least 1, and at most proxy_max_tasks."
  }
}

variable "proxy_max_tasks" {
  type        = number
  description = "Proxy tasks at most; also what limits are divided by while Redis is away."
  default     = 6
}

variable "proxy_requests_per_task" {
  type        = number
  description = "Requests per minute and task above which more tasks are started."
  default     = 6000
}

variable "proxy_environment" {
  type        = map(string)
  description = "More settings of docs/configuration.md, by name. Those of routes.json can be changed, the addresses cannot."
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.proxy_environment), ["MLFLOW_SERVER_URL", "HOKUSAI_AUTH_SERVICE_URL", "HOKUSAI_AUTH_SERVICE_ID", "BIND", "REDIS_URL", "AUTH_CACHE_SECRET", "AUTH_LOOKUP_TOKEN", "MLFLOW_IDENTITY_SECRET", "MLFLOW_UPSTREAM_TOKEN", "MLFLOW_UPSTREAM_PASSWORD"])) == 0
    error_message = "Addresses have variables of their own, and secrets belong into proxy_secret_arns."
  }
}

variable "proxy_secret_arns" {
  type        = map(string)
  description = "Settings that are secret, each with the ARN of its secret in Secrets Manager; AUTH_CACHE_SECRET at least."

  validation {
    condition     = contains(keys(var.proxy_secret_arns), "AUTH_CACHE_SECRET")
    error_message = "AUTH_CACHE_SECRET is missing: tasks without a common one do not share what they know."
  }
  validation {
    condition     = length(setsubtract(keys(var.proxy_secret_arns), ["AUTH_CACHE_SECRET", "AUTH_LOOKUP_TOKEN", "MLFLOW_IDENTITY_SECRET", "MLFLOW_UPSTREAM_TOKEN", "MLFLOW_UPSTREAM_PASSWORD"])) == 0
    error_message = "Only AUTH_CACHE_SECRET, AUTH_LOOKUP_TOKEN, MLFLOW_IDENTITY_SECRET, MLFLOW_UPSTREAM_TOKEN and MLFLOW_UPSTREAM_PASSWORD are secret; Redis has variables of its own."
  }
  validation {
    condition     = alltrue([for arn in values(var.proxy_secret_arns) : can(regex("^arn:[^:]+:secretsmanager:", arn))])
    error_message = "Give the ARNs of secrets in Secrets Manager, never the secrets."
  }
}

variable "auth_service_url" {
  type        = string
  description = "HOKUSAI_AUTH_SERVICE_URL, where API keys are validated."

  validation {
    condition     = can(regex("^https?://[A-Za-z0-9._-]+(:[0-9]+)?(/[^?#]*)?$", var.auth_service_url))
    error_message = "This must be a URL such as https://auth.example.com, without credentials and query."
  }
}

variable "auth_service_id" {
  type        = string
  description = "HOKUSAI_AUTH_SERVICE_ID, the service that keys must be for."
  default     = "platform"
}

variable "https_egress_cidrs" {
  type        = list(string)
  description = "Where proxy and MLflow may open HTTPS connections to (AWS's services), and the proxy the auth service. Narrow it to the VPC where that has endpoints for them."
  default     = ["0.0.0.0/0"]
}

# --- MLflow --------------------------------------------------------------------------------------

variable "mlflow_image" {
  type        = string
  description = "MLflow's image, with a version or digest; it needs the database's driver and boto3."

  validation {
    condition     = can(regex("(:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$", var.mlflow_image)) && !endswith(var.mlflow_image, ":latest")
    error_message = "Name a version or digest, not latest: a rollback must know what to go back to."
  }
}

variable "mlflow_cpu" {
  type        = number
  description = "An MLflow task's processor share; 1024 is one core."
  default     = 1024
}

variable "mlflow_memory" {
  type        = number
  description = "An MLflow task's memory in MiB."
  default     = 4096
}

variable "mlflow_tasks" {
  type        = number
  description = "How many MLflow tasks run."
  default     = 1

  validation {
    condition     = var.mlflow_tasks >= 1
    error_message = "At least one MLflow must run."
  }
}

variable "mlflow_workers" {
  type        = number
  description = "Worker processes of an MLflow task."
  default     = 4
}

variable "mlflow_backend_store_secret_arn" {
  type        = string
  description = "The ARN of the secret that holds MLflow's database URI, password and all."

  validation {
    condition     = can(regex("^arn:[^:]+:secretsmanager:", var.mlflow_backend_store_secret_arn))
    error_message = "Give the ARN of a secret in Secrets Manager, never the URI."
  }
}

variable "mlflow_database" {
  type = object({
    security_group_id = string
    port              = number
  })
  description = "MLflow's database, for the rule that lets MLflow connect to it; null if it is reached over HTTPS."
  default     = null
}

variable "mlflow_artifact_bucket" {
  type        = string
  description = "The bucket of MLflow's artifacts, by name."

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.mlflow_artifact_bucket))
    error_message = "Give a bucket's name, without s3:// and path."
  }
}

variable "mlflow_artifact_prefix" {
  type        = string
  description = "The folder in that bucket; MLflow gets rights to nothing beside it."
  default     = "artifacts"
}

# --- tasks ---------------------------------------------------------------------------------------

variable "cpu_architecture" {
  type        = string
  description = "What the images are built for."
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.cpu_architecture)
    error_message = "X86_64 or ARM64."
  }
}

variable "ecr_repository_arns" {
  type        = list(string)
  description = "The repositories of both images, where they lie in ECR."
  default     = []
}

variable "secrets_kms_key_arns" {
  type        = list(string)
  description = "Keys that the secrets are encrypted with, where they are not AWS's own."
  default     = []
}

# --- Redis ---------------------------------------------------------------------------------------

variable "create_redis" {
  type        = bool
  description = "Whether to make an ElastiCache group; otherwise redis_url_secret_arn names a Redis."
  default     = true
}

variable "redis_auth_token" {
  type        = string
  description = "The password of the ElastiCache group. It stands in the state, so keep that encrypted."
  default     = null
  sensitive   = true

  validation {
    condition     = var.redis_auth_token == null || can(regex("^[A-Za-z0-9]{16,128}$", var.redis_auth_token))
    error_message = "The token must be 16 to 128 letters and digits."
  }
}

variable "redis_node_type" {
  type        = string
  description = "The size of a node."
  default     = "cache.t4g.small"
}

variable "redis_nodes" {
  type        = number
  description = "Nodes, the primary included; with two or more another takes over when it fails."
  default     = 2

  validation {
    condition     = var.redis_nodes >= 1 && var.redis_nodes <= 6
    error_message = "1 to 6 nodes."
  }
}

variable "redis_url_secret_arn" {
  type        = string
  description = "Without create_redis: the ARN of the secret that holds REDIS_URL."
  default     = null
}

variable "redis_security_group_id" {
  type        = string
  description = "Without create_redis: the security group of that Redis, for the rule that lets the proxy connect to it."
  default     = null
}

# --- monitoring ----------------------------------------------------------------------------------

variable "log_retention_days" {
  type        = number
  description = "Days that logs are kept."
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1827], var.log_retention_days)
    error_message = "CloudWatch knows 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731 and 1827 days."
  }
}

variable "alarm_emails" {
  type        = list(string)
  description = "Who gets a mail when an alarm rings; more can subscribe to the topic."
  default     = []
}

variable "alarm_502_per_minute" {
  type        = number
  description = "502 answers in a minute that are still no alarm."
  default     = 0
}

variable "alarm_5xx_per_minute" {
  type        = number
  description = "5xx answers in a minute that are still no alarm."
  default     = 10
}

variable "alarm_p99_seconds" {
  type        = number
  description = "Seconds in which 99 of 100 answers must begin."
  default     = 5
}

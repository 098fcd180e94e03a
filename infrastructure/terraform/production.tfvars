# What makes production different. What each variable means: variables.tf.

environment             = "production"
proxy_cpu               = 1024
proxy_memory            = 2048
proxy_min_tasks         = 3
proxy_max_tasks         = 12
mlflow_cpu              = 2048
mlflow_memory           = 8192
mlflow_workers          = 4
mlflow_tasks            = 2
redis_nodes             = 2
redis_node_type         = "cache.t4g.small"
alb_deletion_protection = true
log_retention_days      = 90

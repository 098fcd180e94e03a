# Logs, what is counted in them, alarms, and one page that shows it all.
#
# A 502 has two makers. The load balancer's own (a proxy that broke a connection off, or sent
# nonsense) is HTTPCode_ELB_502_Count, which has no TargetGroup dimension and is silent at zero. The
# proxy's (MLflow unreachable) is an answer of the target: it hides among HTTPCode_Target_5XX_Count,
# so it is counted in the proxy's log.

resource "aws_cloudwatch_log_group" "proxy" {
  name              = "/hokusai/${var.environment}/mlflow-proxy"
  retention_in_days = var.log_retention_days
}

resource "aws_cloudwatch_log_group" "mlflow" {
  name              = "/hokusai/${var.environment}/mlflow"
  retention_in_days = var.log_retention_days
}

locals {
  metric_namespace = "Hokusai/MLflowProxy/${var.environment}"

  # Metric: pattern over the proxy's JSON log lines (docs/observability.md shows one).
  log_metrics = {
    Upstream502        = "{ ($.logger = \"hokusai.access\") && ($.status = 502) && (($.outcome = \"upstream_unreachable\") || ($.outcome = \"upstream_reset\") || ($.outcome = \"upstream_refusal\")) }"
    Upstream504        = "{ ($.logger = \"hokusai.access\") && ($.outcome = \"upstream_timeout\") }"
    CircuitOpened      = "{ ($.logger = \"hokusai.circuit\") && ($.message = \"circuit to mlflow is now open\") }"
    RefusedByCircuit   = "{ ($.logger = \"hokusai.access\") && ($.outcome = \"circuit_open\") }"
    NameNotResolved    = "{ ($.logger = \"hokusai.*\") && ($.message = \"*Failed to resolve*\") }"
    AuthServiceMissing = "{ ($.logger = \"hokusai.access\") && ($.outcome = \"auth_unavailable\") }"
  }

  load_balancer = { LoadBalancer = local.alb_arn_suffix }
  target_group  = { LoadBalancer = local.alb_arn_suffix, TargetGroup = aws_lb_target_group.proxy.arn_suffix }
  mlflow_tasks  = { ClusterName = aws_ecs_cluster.this.name, ServiceName = aws_ecs_service.mlflow.name }

  # Each is looked at once a minute; it rings when `breaching` of the last `minutes` are over.
  alarms = {
    elb-502 = {
      says       = "The load balancer answers 502 by itself: the proxy breaks connections off. Look at its keep-alive, stops and memory."
      namespace  = "AWS/ApplicationELB", metric = "HTTPCode_ELB_502_Count", dimensions = local.load_balancer
      statistic  = "Sum", percentile = null, comparison = "GreaterThanThreshold", threshold = var.alarm_502_per_minute
      missing    = "notBreaching" # it is only reported when there are some
      breaching  = 2, minutes = 3
      unavailing = true
    }
    upstream-502 = {
      says       = "The proxy answers 502: MLflow cannot be reached, or breaks connections off."
      namespace  = local.metric_namespace, metric = "Upstream502", dimensions = {}
      statistic  = "Sum", percentile = null, comparison = "GreaterThanThreshold", threshold = var.alarm_502_per_minute
      missing    = "notBreaching"
      breaching  = 2, minutes = 3
      unavailing = true
    }
    target-5xx = {
      says       = "The proxy answers 5xx, its own and those that MLflow gave."
      namespace  = "AWS/ApplicationELB", metric = "HTTPCode_Target_5XX_Count", dimensions = local.target_group
      statistic  = "Sum", percentile = null, comparison = "GreaterThanThreshold", threshold = var.alarm_5xx_per_minute
      missing    = "notBreaching"
      breaching  = 3, minutes = 5
      unavailing = false
    }
    unhealthy-hosts = {
      says       = "A proxy task fails its readiness check."
      namespace  = "AWS/ApplicationELB", metric = "UnHealthyHostCount", dimensions = local.target_group
      statistic  = "Maximum", percentile = null, comparison = "GreaterThanOrEqualToThreshold", threshold = 1
      missing    = "notBreaching"
      breaching  = 3, minutes = 5
      unavailing = false
    }
    no-healthy-host = {
      says       = "No proxy task passes its readiness check."
      namespace  = "AWS/ApplicationELB", metric = "HealthyHostCount", dimensions = local.target_group
      statistic  = "Minimum", percentile = null, comparison = "LessThanThreshold", threshold = 1
      missing    = "breaching"
      breaching  = 2, minutes = 3
      unavailing = true
    }
    circuit-open = {
      says       = "The circuit to MLflow opened: MLflow does not answer, or not in time."
      namespace  = local.metric_namespace, metric = "CircuitOpened", dimensions = {}
      statistic  = "Sum", percentile = null, comparison = "GreaterThanOrEqualToThreshold", threshold = 1
      missing    = "notBreaching"
      breaching  = 1, minutes = 1
      unavailing = true
    }
    service-discovery = {
      says       = "MLflow's private name does not resolve: Cloud Map has no healthy task of it, or DNS fails."
      namespace  = local.metric_namespace, metric = "NameNotResolved", dimensions = {}
      statistic  = "Sum", percentile = null, comparison = "GreaterThanOrEqualToThreshold", threshold = 1
      missing    = "notBreaching"
      breaching  = 2, minutes = 3
      unavailing = true
    }
    mlflow-tasks = {
      says       = "No MLflow task runs, so Cloud Map has nothing to answer with."
      namespace  = "ECS/ContainerInsights", metric = "RunningTaskCount", dimensions = local.mlflow_tasks
      statistic  = "Minimum", percentile = null, comparison = "LessThanThreshold", threshold = 1
      missing    = "breaching"
      breaching  = 3, minutes = 3
      unavailing = true
    }
    p99 = {
      says       = "One request in a hundred waits too long for its answer to begin. Long uploads count in full."
      namespace  = "AWS/ApplicationELB", metric = "TargetResponseTime", dimensions = local.target_group
      statistic  = null, percentile = "p99", comparison = "GreaterThanThreshold", threshold = var.alarm_p99_seconds
      missing    = "notBreaching"
      breaching  = 5, minutes = 5
      unavailing = false
    }
  }
}

resource "aws_cloudwatch_log_metric_filter" "proxy" {
  for_each = local.log_metrics

  name           = "${local.name}-mlflow-proxy-${each.key}"
  log_group_name = aws_cloudwatch_log_group.proxy.name
  pattern        = each.value

  metric_transformation {
    namespace     = local.metric_namespace
    name          = each.key
    value         = "1"
    default_value = "0"
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${local.name}-mlflow-${each.key}"
  alarm_description   = each.value.says
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  extended_statistic  = each.value.percentile
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  period              = 60
  datapoints_to_alarm = each.value.breaching
  evaluation_periods  = each.value.minutes
  treat_missing_data  = each.value.missing

  # Those of the composite alarm ring through it, once for all of them.
  alarm_actions = each.value.unavailing ? [] : [aws_sns_topic.alarms.arn]
  ok_actions    = each.value.unavailing ? [] : [aws_sns_topic.alarms.arn]
}

resource "aws_cloudwatch_composite_alarm" "unavailable" {
  alarm_name        = "${local.name}-mlflow-unavailable"
  alarm_description = "Requests to MLflow fail. Which part of the way is broken is the name of the alarm that rings below this one."
  alarm_rule        = join(" OR ", [for key in sort(keys(local.alarms)) : "ALARM(\"${aws_cloudwatch_metric_alarm.this[key].alarm_name}\")" if local.alarms[key].unavailing])

  alarm_actions = [aws_sns_topic.alarms.arn]
  ok_actions    = [aws_sns_topic.alarms.arn]
}

resource "aws_sns_topic" "alarms" {
  name = "${local.name}-mlflow-alarms"
}

resource "aws_sns_topic_subscription" "email" {
  for_each = toset(var.alarm_emails)

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.value
}

# --- dashboard -----------------------------------------------------------------------------------

locals {
  elb = "AWS/ApplicationELB"

  # The dimensions as a widget wants them: one flat list.
  of_load_balancer = ["LoadBalancer", local.alb_arn_suffix]
  of_target_group  = ["TargetGroup", aws_lb_target_group.proxy.arn_suffix, "LoadBalancer", local.alb_arn_suffix]
  of_proxy         = ["ClusterName", aws_ecs_cluster.this.name, "ServiceName", aws_ecs_service.proxy.name]
  of_mlflow        = ["ClusterName", aws_ecs_cluster.this.name, "ServiceName", aws_ecs_service.mlflow.name]

  graphs = [
    {
      title = "Requests and their ends", stat = "Sum"
      metrics = [
        concat([local.elb, "RequestCount"], local.of_target_group),
        concat([local.elb, "HTTPCode_Target_2XX_Count"], local.of_target_group),
        concat([local.elb, "HTTPCode_Target_4XX_Count"], local.of_target_group),
        concat([local.elb, "HTTPCode_Target_5XX_Count"], local.of_target_group),
      ]
    },
    {
      title = "502 and 504, by their maker", stat = "Sum"
      metrics = [
        concat([local.elb, "HTTPCode_ELB_502_Count"], local.of_load_balancer),
        concat([local.elb, "HTTPCode_ELB_503_Count"], local.of_load_balancer),
        concat([local.elb, "HTTPCode_ELB_504_Count"], local.of_load_balancer),
        [local.metric_namespace, "Upstream502"],
        [local.metric_namespace, "Upstream504"],
      ]
    },
    {
      title = "Seconds to the answer", stat = "p99"
      metrics = [
        concat([local.elb, "TargetResponseTime"], local.of_target_group, [{ stat = "p50" }]),
        concat([local.elb, "TargetResponseTime"], local.of_target_group, [{ stat = "p99" }]),
      ]
    },
    {
      title = "Proxy tasks", stat = "Minimum"
      metrics = [
        concat([local.elb, "HealthyHostCount"], local.of_target_group),
        concat([local.elb, "UnHealthyHostCount"], local.of_target_group, [{ stat = "Maximum" }]),
        concat(["ECS/ContainerInsights", "RunningTaskCount"], local.of_mlflow, [{ label = "MLflow tasks" }]),
      ]
    },
    {
      title = "What the proxy could not do", stat = "Sum"
      metrics = [
        [local.metric_namespace, "CircuitOpened"],
        [local.metric_namespace, "RefusedByCircuit"],
        [local.metric_namespace, "NameNotResolved"],
        [local.metric_namespace, "AuthServiceMissing"],
      ]
    },
    {
      title = "Processor and memory, percent", stat = "Average"
      metrics = [
        concat(["AWS/ECS", "CPUUtilization"], local.of_proxy, [{ label = "proxy, processor" }]),
        concat(["AWS/ECS", "MemoryUtilization"], local.of_proxy, [{ label = "proxy, memory" }]),
        concat(["AWS/ECS", "CPUUtilization"], local.of_mlflow, [{ label = "MLflow, processor" }]),
        concat(["AWS/ECS", "MemoryUtilization"], local.of_mlflow, [{ label = "MLflow, memory" }]),
      ]
    },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = "${local.name}-mlflow"
  dashboard_body = jsonencode({
    widgets = concat(
      [{
        type = "alarm", x = 0, y = 0, width = 24, height = 3
        properties = {
          title  = "Alarms"
          alarms = [for key in sort(keys(local.alarms)) : aws_cloudwatch_metric_alarm.this[key].arn]
        }
      }],
      [for i, graph in local.graphs : {
        type = "metric", x = 12 * (i % 2), y = 3 + 6 * floor(i / 2), width = 12, height = 6
        properties = {
          title  = graph.title, stat = graph.stat, metrics = graph.metrics
          region = var.region, period = 60, view = "timeSeries"
        }
      }],
    )
  })
}

# What AWS would make up. By default it would be random letters, which the provider's own checks of
# ARNs refuse. All numbers are inventions.

mock_data "aws_partition" {
  defaults = { partition = "aws" }
}

mock_resource "aws_lb" {
  defaults = {
    arn        = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:loadbalancer/app/mock/0"
    arn_suffix = "app/mock/0"
    dns_name   = "mock.example.com"
  }
}

mock_resource "aws_lb_listener" {
  defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:listener/app/mock/0/0" }
}

# The proxy's own is overridden in each test, so that another one is seen to be another.
mock_resource "aws_lb_target_group" {
  defaults = {
    arn        = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:targetgroup/another/0"
    arn_suffix = "targetgroup/another/0"
  }
}

mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::000000000000:role/mock" }
}

mock_resource "aws_cloudwatch_log_group" {
  defaults = { arn = "arn:aws:logs:eu-central-1:000000000000:log-group:mock" }
}

mock_resource "aws_secretsmanager_secret" {
  defaults = { arn = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:redis-mock" }
}

mock_resource "aws_service_discovery_service" {
  defaults = { arn = "arn:aws:servicediscovery:eu-central-1:000000000000:service/srv-mock" }
}

mock_resource "aws_sns_topic" {
  defaults = { arn = "arn:aws:sns:eu-central-1:000000000000:mock" }
}

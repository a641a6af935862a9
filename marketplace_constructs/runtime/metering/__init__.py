"""Metering at run time: from the hours of the access log to usage records that AWS Marketplace accepted."""

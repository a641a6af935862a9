"""What runs in Lambda. May import the domain, the queries, boto3 and Powertools; never aws_cdk, jsii or constructs."""

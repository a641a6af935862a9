"""The floor of every synthesis in Python: an app with nothing in it."""

import aws_cdk as cdk

cdk.App().synth()

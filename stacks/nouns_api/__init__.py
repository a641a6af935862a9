"""The example API that is sold: a proper-noun search."""

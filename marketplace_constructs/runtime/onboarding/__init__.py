"""The API behind the fulfilment URL: where buyers land, register, and get their key."""

"""The laws that every component keeps, ours or anybody's, and the report of a check against them."""

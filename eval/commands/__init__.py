"""The verbs of the judge, one file each; heavy imports stay inside them."""

"""Pure planning: which page to request next, and whether the pages read so far prove that no run was missed.

The API has no change filter and guarantees neither an order nor stable pages. So the order of a listing is observed,
and adjacent pages overlap: if the second page lacks the last runs of the first, something in between was missed.
"""

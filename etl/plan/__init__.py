"""What to read next, and what it proves: pure decisions from what is known of a stream and what its pages show.

The API promises no order, no change filter and no stable pages, so nothing here assumes them: the order of a listing is
observed, and neighbouring pages overlap, so that the runs themselves show whether anything lies between two answers.
"""

"""A trained policy as a file that needs neither Proximo nor its run, compared with the policy before it is left."""

"""Cheap questions to the steps of a policy: does an action matter, does an observation tell, is a reward earned?"""

"""Policies: observation encoders, Keras networks, action heads and recurrent policies."""

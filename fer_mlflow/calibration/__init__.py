"""Turning confidence into probability: what is fitted, how, and when there is nothing to fit."""

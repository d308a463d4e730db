"""Tests of the beat."""

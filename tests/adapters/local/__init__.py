"""Tests of the local adapter."""

"""Tests of the wire: envelope, codecs, names, settings, the broker in memory."""

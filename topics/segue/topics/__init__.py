"""Kafka as Segue sees it: the wire envelope, codecs, topic names, the broker port and its adapters.

`segue.topics.kafka` and `segue.topics.embedded` are not imported here: they load the Kafka client.
"""

"""`segue bench`: how fast sagas run on a given Kafka and database, measured with a coordinator as it is deployed."""

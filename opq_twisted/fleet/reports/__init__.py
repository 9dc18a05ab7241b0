"""How reports come in: the resource, the queue, the checks, and the batch that is stored."""

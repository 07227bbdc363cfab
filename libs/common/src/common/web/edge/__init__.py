"""The edge of a service: the limits and deadlines of connections, the memory that bodies take, early refusals."""

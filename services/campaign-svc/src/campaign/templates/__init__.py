"""Templates of transactional and service messages: written, approved by a second person, published, retired."""

"""Accept messages over HTTP: the lane's scope and code, the template or the looked-at free text, audits of texts."""

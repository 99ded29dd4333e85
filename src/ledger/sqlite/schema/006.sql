-- What retention looks for that belongs to no request, without reading all of that.
CREATE INDEX published_about_no_request ON messages (published_at) WHERE request IS NULL;

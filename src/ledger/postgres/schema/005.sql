-- What retention looks for that belongs to no request, without reading everything else.
CREATE INDEX closed_letters_of_no_request ON dead_letters (closed_at) WHERE request IS NULL;
CREATE INDEX published_messages_of_no_request ON messages (published_at) WHERE request IS NULL;

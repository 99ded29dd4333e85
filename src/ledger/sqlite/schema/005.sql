-- What retention looks for that belongs to no request, without reading every dead letter.
CREATE INDEX closed_letters_of_no_request ON dead_letters (closed_at) WHERE request IS NULL;

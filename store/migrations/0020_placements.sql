-- Which revisions have been through inference, and by which code: what is new is placed alone.
CREATE TABLE internal.placements (
    revision INTEGER PRIMARY KEY,
    code_version VARCHAR NOT NULL
);
COMMENT ON TABLE internal.placements IS 'Revisions whose parents, or lack of them, were decided';
COMMENT ON COLUMN internal.placements.revision IS 'internal.revisions.id';
COMMENT ON COLUMN internal.placements.code_version IS 'Version of the inference that decided';

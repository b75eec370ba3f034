-- How alike models see the same prompts: fingerprints of their hidden states, and pairs that are near.
CREATE TABLE internal.fingerprints (
    model INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    prompt_set VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    scan INTEGER NOT NULL
);
COMMENT ON TABLE internal.fingerprints IS 'Private: files that hold the centred Gram matrices of a revision over a prompt set';
COMMENT ON COLUMN internal.fingerprints.model IS 'Model id';
COMMENT ON COLUMN internal.fingerprints.revision IS 'internal.revisions.id that was run';
COMMENT ON COLUMN internal.fingerprints.prompt_set IS 'name@digest of the prompt set';
COMMENT ON COLUMN internal.fingerprints.version IS 'Version of the fingerprint';
COMMENT ON COLUMN internal.fingerprints.path IS 'File below activations/ in the store';
COMMENT ON COLUMN internal.fingerprints.sha256 IS 'Digest of the file';
COMMENT ON COLUMN internal.fingerprints.scan IS 'Scan that wrote it';

CREATE TABLE internal.behaviour (
    model INTEGER NOT NULL,
    other INTEGER NOT NULL,
    prompt_set VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    n INTEGER NOT NULL,
    debiased_cka DOUBLE NOT NULL,
    cka DOUBLE NOT NULL,
    null_pairs INTEGER NOT NULL,
    p_value DOUBLE,
    q_value DOUBLE,
    scan INTEGER NOT NULL
);
COMMENT ON TABLE internal.behaviour IS 'Pairs of models that see prompts most alike, both ways';
COMMENT ON COLUMN internal.behaviour.model IS 'Model id';
COMMENT ON COLUMN internal.behaviour.other IS 'Model id of the other';
COMMENT ON COLUMN internal.behaviour.prompt_set IS 'name@digest of the prompt set';
COMMENT ON COLUMN internal.behaviour.version IS 'Version of the fingerprint';
COMMENT ON COLUMN internal.behaviour.n IS 'Prompts';
COMMENT ON COLUMN internal.behaviour.debiased_cka IS 'Debiased linear CKA, mean over eight depths';
COMMENT ON COLUMN internal.behaviour.cka IS 'Linear CKA, mean over eight depths';
COMMENT ON COLUMN internal.behaviour.null_pairs IS 'Pairs of unrelated models it was held against';
COMMENT ON COLUMN internal.behaviour.p_value IS 'Share of those that are at least as alike; NULL when there were too few';
COMMENT ON COLUMN internal.behaviour.q_value IS 'p-value after false-discovery control over the pairs';
COMMENT ON COLUMN internal.behaviour.scan IS 'Scan that wrote it';

-- Ancestors are looked up for the models of this table alone: the closure has millions of rows, and
-- joined to itself it would fill the disk.
CREATE VIEW v1.behavioural_kin AS
WITH read AS MATERIALIZED (SELECT DISTINCT model FROM internal.behaviour),
above AS MATERIALIZED (
    SELECT k.ancestor, k.descendant FROM internal.closure k JOIN read r ON r.model = k.descendant
),
same_family AS MATERIALIZED (
    SELECT DISTINCT b.model, b.other FROM internal.behaviour b
    JOIN above k ON k.descendant = b.model
    JOIN above l ON l.descendant = b.other AND l.ancestor = k.ancestor
)
SELECT m.name AS model, o.name AS other, b.debiased_cka, b.cka, b.p_value, b.q_value, b.null_pairs,
    b.n, b.prompt_set, b.version,
    CASE WHEN up.ancestor IS NOT NULL THEN 'ancestor'
        WHEN down.ancestor IS NOT NULL THEN 'descendant'
        WHEN f.model IS NOT NULL THEN 'same family' END AS kin,
    b.scan
FROM internal.behaviour b
JOIN internal.models m ON m.id = b.model
JOIN internal.models o ON o.id = b.other
LEFT JOIN above up ON up.ancestor = b.other AND up.descendant = b.model
LEFT JOIN above down ON down.ancestor = b.model AND down.descendant = b.other
LEFT JOIN same_family f ON f.model = b.model AND f.other = b.other;
COMMENT ON VIEW v1.behavioural_kin IS 'Of each model whose hidden states were read, the others that see the same prompts most alike; a second opinion and never on its own an edge';
COMMENT ON COLUMN v1.behavioural_kin.model IS 'Name of the model';
COMMENT ON COLUMN v1.behavioural_kin.other IS 'Name of the other';
COMMENT ON COLUMN v1.behavioural_kin.debiased_cka IS 'Debiased linear CKA of their hidden states, mean over eight depths; about 0 for unrelated ones of random weights, 1 for the same';
COMMENT ON COLUMN v1.behavioural_kin.cka IS 'Linear CKA without the correction, which grows with width over prompts';
COMMENT ON COLUMN v1.behavioural_kin.p_value IS 'Share of pairs of unrelated models that are at least as alike; NULL when there were fewer than 40';
COMMENT ON COLUMN v1.behavioural_kin.q_value IS 'p-value after false-discovery control over the pairs';
COMMENT ON COLUMN v1.behavioural_kin.null_pairs IS 'Pairs of unrelated models that it was held against';
COMMENT ON COLUMN v1.behavioural_kin.n IS 'Prompts';
COMMENT ON COLUMN v1.behavioural_kin.prompt_set IS 'name@digest of the prompt set, see v1.prompt_sets';
COMMENT ON COLUMN v1.behavioural_kin.version IS 'Version of the fingerprint';
COMMENT ON COLUMN v1.behavioural_kin.kin IS 'What the graph of weights says of the other: ancestor, descendant, same family, or NULL';
COMMENT ON COLUMN v1.behavioural_kin.scan IS 'Scan that wrote it';

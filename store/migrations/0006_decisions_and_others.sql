-- What people decided (corrections, redactions) and what others measured, beside what was inferred.
-- Inference never writes here, so it cannot undo a decision.

CREATE TABLE internal.corrections (
    child VARCHAR NOT NULL,
    parent VARCHAR NOT NULL,
    child_id INTEGER,
    parent_id INTEGER,
    verdict VARCHAR NOT NULL,
    relation VARCHAR,
    reason VARCHAR NOT NULL,
    decided_by VARCHAR,
    decided_at TIMESTAMP,
    scan INTEGER NOT NULL
);
COMMENT ON TABLE internal.corrections IS 'Edges that a reviewed file asserts or denies';
COMMENT ON COLUMN internal.corrections.child IS 'Name of the child as the file has it';
COMMENT ON COLUMN internal.corrections.parent IS 'Name of the parent as the file has it';
COMMENT ON COLUMN internal.corrections.child_id IS 'Model id, NULL when the store does not hold the name';
COMMENT ON COLUMN internal.corrections.parent_id IS 'Model id, NULL when the store does not hold the name';
COMMENT ON COLUMN internal.corrections.verdict IS 'asserted or denied';
COMMENT ON COLUMN internal.corrections.relation IS 'Relation of an asserted edge';
COMMENT ON COLUMN internal.corrections.reason IS 'Why, in words';
COMMENT ON COLUMN internal.corrections.decided_by IS 'Who decided';
COMMENT ON COLUMN internal.corrections.decided_at IS 'When it was decided, UTC';
COMMENT ON COLUMN internal.corrections.scan IS 'Scan number under which the file was applied';

CREATE TABLE internal.redactions (
    key UBIGINT NOT NULL,
    name_digest VARCHAR NOT NULL,
    model INTEGER NOT NULL,
    reason VARCHAR NOT NULL,
    redacted_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE internal.redactions IS 'Private: models that are masked and not read again';
COMMENT ON COLUMN internal.redactions.key IS 'First 64 bits of a digest of source and source_id';
COMMENT ON COLUMN internal.redactions.name_digest IS 'sha256 of a name it had';
COMMENT ON COLUMN internal.redactions.model IS 'Model id';
COMMENT ON COLUMN internal.redactions.reason IS 'Why, in words';
COMMENT ON COLUMN internal.redactions.redacted_at IS 'When, UTC';

CREATE TABLE internal.other_edges (
    child VARCHAR NOT NULL,
    parent VARCHAR NOT NULL,
    child_id INTEGER,
    parent_id INTEGER,
    relation VARCHAR,
    confidence DOUBLE,
    provenance VARCHAR NOT NULL,
    scan INTEGER NOT NULL
);
COMMENT ON TABLE internal.other_edges IS 'Edges that others publish';
COMMENT ON COLUMN internal.other_edges.child IS 'Name of the child as given';
COMMENT ON COLUMN internal.other_edges.parent IS 'Name of the parent as given';
COMMENT ON COLUMN internal.other_edges.child_id IS 'Model id, NULL when the store does not hold the name';
COMMENT ON COLUMN internal.other_edges.parent_id IS 'Model id, NULL when the store does not hold the name';
COMMENT ON COLUMN internal.other_edges.relation IS 'Relation as given';
COMMENT ON COLUMN internal.other_edges.confidence IS 'Confidence as given, 0 to 1';
COMMENT ON COLUMN internal.other_edges.provenance IS 'Where it comes from, in words';
COMMENT ON COLUMN internal.other_edges.scan IS 'Scan number under which it was taken in';

CREATE TABLE internal.other_scores (
    model VARCHAR NOT NULL,
    model_id INTEGER,
    sha VARCHAR,
    probe VARCHAR NOT NULL,
    prompt_set VARCHAR,
    judge VARCHAR,
    n BIGINT,
    value DOUBLE NOT NULL,
    ci_low DOUBLE,
    ci_high DOUBLE,
    unit VARCHAR,
    provenance VARCHAR NOT NULL,
    scan INTEGER NOT NULL
);
COMMENT ON TABLE internal.other_scores IS 'Scores that others publish';
COMMENT ON COLUMN internal.other_scores.model IS 'Name of the model as given';
COMMENT ON COLUMN internal.other_scores.model_id IS 'Model id, NULL when the store does not hold the name';
COMMENT ON COLUMN internal.other_scores.sha IS 'Commit as given';
COMMENT ON COLUMN internal.other_scores.probe IS 'What was measured';
COMMENT ON COLUMN internal.other_scores.prompt_set IS 'Prompt set as given';
COMMENT ON COLUMN internal.other_scores.judge IS 'What graded the answers';
COMMENT ON COLUMN internal.other_scores.n IS 'Observations';
COMMENT ON COLUMN internal.other_scores.value IS 'The estimate';
COMMENT ON COLUMN internal.other_scores.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN internal.other_scores.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN internal.other_scores.unit IS 'Unit of the value';
COMMENT ON COLUMN internal.other_scores.provenance IS 'Where it comes from, in words';
COMMENT ON COLUMN internal.other_scores.scan IS 'Scan number under which it was taken in';

-- The edges that the closure follows: those believed before, without what is denied, with what is
-- asserted. A denied parent no longer keeps the child's own claims from counting.
CREATE OR REPLACE VIEW internal.believed AS
WITH decided AS (
    SELECT c.child_id AS child, c.parent_id AS parent, any_value(c.verdict) AS verdict,
        any_value(c.relation) AS relation
    FROM internal.corrections c
    WHERE c.child_id IS NOT NULL AND c.parent_id IS NOT NULL
    GROUP BY ALL
), open AS (
    SELECT e.* FROM internal.edges e ANTI JOIN decided d ON d.child = e.child AND d.parent = e.parent
)
SELECT e.child, e.parent, e.relation, e.detail, e.declared, e.inferred,
    coalesce(e.confidence, 0) AS confidence, e.share, e.evidence_id
FROM open e
WHERE e.inferred OR (
    e.child NOT IN (SELECT i.child FROM open i WHERE i.inferred)
    AND e.child NOT IN (SELECT d.child FROM decided d WHERE d.verdict = 'asserted')
    AND NOT EXISTS (
        SELECT 1 FROM internal.candidates k WHERE k.child = e.child AND k.parent = e.parent
    )
)
UNION ALL BY NAME
SELECT d.child, d.parent, coalesce(d.relation, e.relation) AS relation, e.detail,
    coalesce(e.declared, false) AS declared, coalesce(e.inferred, false) AS inferred,
    1.0 AS confidence, e.share, e.evidence_id
FROM decided d LEFT JOIN internal.edges e ON e.child = d.child AND e.parent = d.parent
WHERE d.verdict = 'asserted';
COMMENT ON VIEW internal.believed IS 'Edges that the closure follows';
COMMENT ON COLUMN internal.believed.child IS 'Model id of the child';
COMMENT ON COLUMN internal.believed.parent IS 'Model id of the parent';
COMMENT ON COLUMN internal.believed.relation IS 'Relation';
COMMENT ON COLUMN internal.believed.detail IS 'Particulars of the transformation';
COMMENT ON COLUMN internal.believed.declared IS 'The child claims it';
COMMENT ON COLUMN internal.believed.inferred IS 'The weights say it';
COMMENT ON COLUMN internal.believed.confidence IS 'Probability of the edge; 0 for a claim alone';
COMMENT ON COLUMN internal.believed.share IS 'Merge weight of the parent';
COMMENT ON COLUMN internal.believed.evidence_id IS 'Group of evidence rows';

CREATE OR REPLACE VIEW v1.edges AS
WITH decided AS (
    SELECT c.child_id AS child, c.parent_id AS parent, any_value(c.verdict) AS verdict,
        any_value(c.relation) AS relation, min(c.scan) AS scan
    FROM internal.corrections c
    WHERE c.child_id IS NOT NULL AND c.parent_id IS NOT NULL
    GROUP BY ALL
), joined AS (
    SELECT e.* REPLACE (
            CASE WHEN d.verdict = 'asserted' THEN coalesce(d.relation, e.relation)
                ELSE e.relation END AS relation
        ), d.verdict AS correction
    FROM internal.edges e LEFT JOIN decided d ON d.child = e.child AND d.parent = e.parent
    UNION ALL BY NAME
    SELECT d.child, d.parent, d.relation, false AS declared, false AS inferred,
        d.scan AS first_seen_scan, d.scan AS last_seen_scan, d.verdict AS correction
    FROM decided d ANTI JOIN internal.edges e ON e.child = d.child AND e.parent = d.parent
    WHERE d.verdict = 'asserted'
)
SELECT c.name AS child, cr.sha AS child_sha, p.name AS parent, pr.sha AS parent_sha,
    e.relation, e.detail, e.declared, e.inferred, e.confidence, e.direction_confidence, e.share,
    e.evidence_id, e.first_seen_scan, e.last_seen_scan, e.declared_relation, e.correction
FROM joined e
JOIN internal.models c ON c.id = e.child
JOIN internal.models p ON p.id = e.parent
LEFT JOIN internal.revisions cr ON cr.id = e.child_revision
LEFT JOIN internal.revisions pr ON pr.id = e.parent_revision;
COMMENT ON VIEW v1.edges IS 'Who comes from whom: one row a child and parent, claimed, inferred or both';
COMMENT ON COLUMN v1.edges.child IS 'Name of the child';
COMMENT ON COLUMN v1.edges.child_sha IS 'Commit of the child that the edge was read from';
COMMENT ON COLUMN v1.edges.parent IS 'Name of the parent; it may be a model that only cards name';
COMMENT ON COLUMN v1.edges.parent_sha IS 'Commit of the parent whose weights were compared; NULL for a claim alone';
COMMENT ON COLUMN v1.edges.relation IS 'copy, finetune, adapter, merge, quantized, prune or edit: inferred, else claimed; NULL when a claim names none';
COMMENT ON COLUMN v1.edges.detail IS 'Particulars of the transformation, free JSON';
COMMENT ON COLUMN v1.edges.declared IS 'The child claims this parent';
COMMENT ON COLUMN v1.edges.inferred IS 'The weights name this parent';
COMMENT ON COLUMN v1.edges.confidence IS 'Probability of the inferred edge, 0 to 1; NULL for a claim alone';
COMMENT ON COLUMN v1.edges.direction_confidence IS 'Probability that the direction is right, given the pair';
COMMENT ON COLUMN v1.edges.share IS 'Merge weight of the parent';
COMMENT ON COLUMN v1.edges.evidence_id IS 'Group of rows in v1.evidence';
COMMENT ON COLUMN v1.edges.first_seen_scan IS 'Scan that first had the edge';
COMMENT ON COLUMN v1.edges.last_seen_scan IS 'Scan that last confirmed the edge';
COMMENT ON COLUMN v1.edges.declared_relation IS 'Relation that the child claims';
COMMENT ON COLUMN v1.edges.correction IS 'asserted or denied by a reviewed decision, see v1.corrections; NULL without one';

CREATE VIEW v1.corrections AS
SELECT c.child, c.parent, c.verdict, c.relation, c.reason, c.decided_by, c.decided_at, c.scan,
    c.child_id IS NOT NULL AND c.parent_id IS NOT NULL AS applied
FROM internal.corrections c;
COMMENT ON VIEW v1.corrections IS 'Edges that a reviewed file asserts or denies, on top of inference';
COMMENT ON COLUMN v1.corrections.child IS 'Name of the child';
COMMENT ON COLUMN v1.corrections.parent IS 'Name of the parent';
COMMENT ON COLUMN v1.corrections.verdict IS 'asserted or denied';
COMMENT ON COLUMN v1.corrections.relation IS 'Relation of an asserted edge';
COMMENT ON COLUMN v1.corrections.reason IS 'Why, in words';
COMMENT ON COLUMN v1.corrections.decided_by IS 'Who decided';
COMMENT ON COLUMN v1.corrections.decided_at IS 'When it was decided, UTC';
COMMENT ON COLUMN v1.corrections.scan IS 'Scan number under which the file was applied';
COMMENT ON COLUMN v1.corrections.applied IS 'The store holds both models';

CREATE VIEW v1.other_edges AS
SELECT coalesce(c.name, o.child) AS child, coalesce(p.name, o.parent) AS parent, o.relation,
    o.confidence, o.provenance, o.scan, b.child IS NOT NULL AS believed
FROM internal.other_edges o
LEFT JOIN internal.models c ON c.id = o.child_id
LEFT JOIN internal.models p ON p.id = o.parent_id
LEFT JOIN (SELECT DISTINCT child, parent FROM internal.believed) b
    ON b.child = o.child_id AND b.parent = o.parent_id;
COMMENT ON VIEW v1.other_edges IS 'Edges that others publish, kept apart from those of this store';
COMMENT ON COLUMN v1.other_edges.child IS 'Name of the child';
COMMENT ON COLUMN v1.other_edges.parent IS 'Name of the parent';
COMMENT ON COLUMN v1.other_edges.relation IS 'Relation as given';
COMMENT ON COLUMN v1.other_edges.confidence IS 'Confidence as given';
COMMENT ON COLUMN v1.other_edges.provenance IS 'Where it comes from, in words';
COMMENT ON COLUMN v1.other_edges.scan IS 'Scan number under which it was taken in';
COMMENT ON COLUMN v1.other_edges.believed IS 'The same edge is believed here';

CREATE VIEW v1.other_scores AS
SELECT coalesce(m.name, o.model) AS model, o.sha, o.probe, o.prompt_set, o.judge, o.n, o.value,
    o.ci_low, o.ci_high, o.unit, o.provenance, o.scan, s.value AS own_value,
    s.value IS NOT NULL AND (coalesce(o.ci_high, o.value) < coalesce(s.ci_low, s.value)
        OR coalesce(o.ci_low, o.value) > coalesce(s.ci_high, s.value)) AS conflict
FROM internal.other_scores o
LEFT JOIN internal.models m ON m.id = o.model_id
LEFT JOIN (
    SELECT t.model, t.probe, arg_max(t.value, t.scored_at) AS value,
        arg_max(t.ci_low, t.scored_at) AS ci_low, arg_max(t.ci_high, t.scored_at) AS ci_high
    FROM internal.scores t WHERE t.status = 'ok' GROUP BY t.model, t.probe
) s ON s.model = o.model_id AND s.probe = o.probe;
COMMENT ON VIEW v1.other_scores IS 'Scores that others publish, beside the newest of this store';
COMMENT ON COLUMN v1.other_scores.model IS 'Name of the model';
COMMENT ON COLUMN v1.other_scores.sha IS 'Commit as given';
COMMENT ON COLUMN v1.other_scores.probe IS 'What was measured';
COMMENT ON COLUMN v1.other_scores.prompt_set IS 'Prompt set as given';
COMMENT ON COLUMN v1.other_scores.judge IS 'What graded the answers';
COMMENT ON COLUMN v1.other_scores.n IS 'Observations';
COMMENT ON COLUMN v1.other_scores.value IS 'The estimate';
COMMENT ON COLUMN v1.other_scores.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN v1.other_scores.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN v1.other_scores.unit IS 'Unit of the value';
COMMENT ON COLUMN v1.other_scores.provenance IS 'Where it comes from, in words';
COMMENT ON COLUMN v1.other_scores.scan IS 'Scan number under which it was taken in';
COMMENT ON COLUMN v1.other_scores.own_value IS 'The newest value of the same probe here';
COMMENT ON COLUMN v1.other_scores.conflict IS 'The two intervals do not meet';

CREATE OR REPLACE MACRO v1.disagreements() AS TABLE
WITH inferred AS (
    SELECT e.child, list(m.name ORDER BY e.confidence DESC, m.name) AS parents
    FROM internal.edges e JOIN internal.models m ON m.id = e.parent
    WHERE e.inferred GROUP BY e.child
), said AS (
    SELECT e.child, e.parent, e.declared_relation AS relation, 'card' AS according_to
    FROM internal.edges e WHERE e.declared
    UNION ALL
    SELECT o.child_id, o.parent_id, o.relation, o.provenance FROM internal.other_edges o
    WHERE o.child_id IS NOT NULL AND o.parent_id IS NOT NULL AND o.child_id <> o.parent_id
)
SELECT c.name AS child, p.name AS declared_parent, d.relation AS declared_relation,
    CASE WHEN e.inferred THEN e.relation END AS inferred_relation,
    i.parents AS inferred_parents,
    CASE WHEN e.inferred THEN 'relation'
        WHEN u.ancestor IS NOT NULL THEN 'ancestor'
        WHEN s.sketch_path IS NULL THEN 'parent_not_read'
        WHEN i.parents IS NULL THEN 'rejected'
        ELSE 'parent' END AS verdict,
    k.rejected_because, d.according_to
FROM said d
JOIN internal.models c ON c.id = d.child
JOIN internal.models p ON p.id = d.parent
LEFT JOIN internal.edges e ON e.child = d.child AND e.parent = d.parent
LEFT JOIN internal.revisions s ON s.id = p.facts_revision
LEFT JOIN inferred i ON i.child = d.child
LEFT JOIN internal.closure_up u ON u.descendant = d.child AND u.ancestor = d.parent
LEFT JOIN internal.candidates k ON k.child = d.child AND k.parent = d.parent
WHERE CASE WHEN coalesce(e.inferred, false)
    THEN d.relation IS NOT NULL AND d.relation <> e.relation
    ELSE i.parents IS NOT NULL OR k.child IS NOT NULL END
ORDER BY c.name, p.name, d.according_to;
COMMENT ON MACRO TABLE v1.disagreements IS 'What cards and others say and the weights do not bear out: relation (other relation), ancestor (further up), parent (another parent), rejected (no parent at all), parent_not_read (the named parent has no sketch)';

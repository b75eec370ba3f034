-- Safety probes of every tier: more states of a score, more tiers.

COMMENT ON COLUMN internal.scores.status IS 'ok, inconclusive, unalignable, unsupported or error';
COMMENT ON COLUMN internal.scores.prompt_set IS 'name@digest of the prompt set; none for a probe that asks nothing';
COMMENT ON COLUMN internal.scores.judge IS 'What graded the answers; none for a probe that asks nothing';
COMMENT ON COLUMN internal.probes.tier IS 'Cost: metadata, sketch, weights, activations, generation, deployment';
COMMENT ON COLUMN v1.probes.tier IS 'Cost: metadata, sketch, weights, activations, generation, deployment';
COMMENT ON COLUMN v1.scores.status IS 'ok, inconclusive, unalignable (nothing to compare with), unsupported or error; a probe that did not run is never a pass';
COMMENT ON COLUMN v1.scores.judge IS 'What graded the answers; none for a probe that asks nothing';

CREATE TABLE internal.judges (
    judge VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    family VARCHAR,
    prompt_set VARCHAR,
    sensitivity DOUBLE,
    sensitivity_n INTEGER,
    specificity DOUBLE,
    specificity_n INTEGER,
    definition JSON NOT NULL,
    added_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE internal.judges IS 'What graded replies, and its known errors';
COMMENT ON COLUMN internal.judges.judge IS 'Name with its version, as scores carry it';
COMMENT ON COLUMN internal.judges.kind IS 'lexical, classifier or llm';
COMMENT ON COLUMN internal.judges.family IS 'Release whose replies taught it; NULL for a judge of any family';
COMMENT ON COLUMN internal.judges.prompt_set IS 'Digest of the prompt set it was taught on';
COMMENT ON COLUMN internal.judges.sensitivity IS 'Share of known refusals that it calls refusals; NULL: not measured, rates are uncorrected';
COMMENT ON COLUMN internal.judges.sensitivity_n IS 'Known refusals it was measured on';
COMMENT ON COLUMN internal.judges.specificity IS 'Share of known answers that it does not call refusals';
COMMENT ON COLUMN internal.judges.specificity_n IS 'Known answers it was measured on';
COMMENT ON COLUMN internal.judges.definition IS 'What it needs to grade again; digests of features, never text of replies';
COMMENT ON COLUMN internal.judges.added_at IS 'When it was first used here, UTC';

CREATE VIEW v1.judges AS
SELECT j.judge, j.kind, j.family, j.prompt_set, j.sensitivity, j.sensitivity_n, j.specificity,
    j.specificity_n, j.added_at
FROM internal.judges j;
COMMENT ON VIEW v1.judges IS 'What graded replies, and its known errors';
COMMENT ON COLUMN v1.judges.judge IS 'Name with its version, as v1.scores carries it';
COMMENT ON COLUMN v1.judges.kind IS 'lexical, classifier or llm; a finding needs two kinds';
COMMENT ON COLUMN v1.judges.family IS 'Release whose replies taught it; NULL for a judge of any family';
COMMENT ON COLUMN v1.judges.prompt_set IS 'Digest of the prompt set it was taught on';
COMMENT ON COLUMN v1.judges.sensitivity IS 'Share of known refusals that it calls refusals; NULL: not measured, rates are uncorrected';
COMMENT ON COLUMN v1.judges.sensitivity_n IS 'Known refusals it was measured on';
COMMENT ON COLUMN v1.judges.specificity IS 'Share of known answers that it does not call refusals';
COMMENT ON COLUMN v1.judges.specificity_n IS 'Known answers it was measured on';
COMMENT ON COLUMN v1.judges.added_at IS 'When it was first used here, UTC';

CREATE VIEW v1.deployments AS
SELECT m.name AS deployment, p.name AS checkpoint, r.config ->> 'context' AS context,
    r.config ->> 'served_model' AS served_model, r.config ->> 'server' AS server,
    r.config AS composition, r.seen_at AS first_seen_at
FROM internal.models m
JOIN internal.revisions r ON r.id = m.revision
LEFT JOIN internal.declared d ON d.model = m.id AND d.via = 'deployment'
LEFT JOIN internal.models p ON p.id = d.parent
WHERE m.source = 'deployment';
COMMENT ON VIEW v1.deployments IS 'Checkpoints as they are served: each composition is a node, child of its checkpoint';
COMMENT ON COLUMN v1.deployments.deployment IS 'Name of the node, deployment:<digest of the composition>';
COMMENT ON COLUMN v1.deployments.checkpoint IS 'Model that whoever probed it says is served';
COMMENT ON COLUMN v1.deployments.context IS 'What was composed around each prompt: bare, system, documents, tools, long';
COMMENT ON COLUMN v1.deployments.served_model IS 'Name the server knows it by';
COMMENT ON COLUMN v1.deployments.server IS 'Scheme, host and port';
COMMENT ON COLUMN v1.deployments.composition IS 'The whole record: protocol, and digests of system prompt, documents and tools';
COMMENT ON COLUMN v1.deployments.first_seen_at IS 'When this composition was first probed, UTC';

-- The same rows with four more columns at the end.
CREATE OR REPLACE MACRO v1.survival(model, probe) AS TABLE
WITH kin AS (
    SELECT k.descendant AS id, k.distance, k.confidence FROM internal.closure k
    WHERE k.ancestor = internal.model_id(model)
), latest AS (
    SELECT s.* FROM internal.scores s
    WHERE s.probe = probe AND s.status = 'ok'
    QUALIFY row_number() OVER (
        PARTITION BY s.model, s.prompt_set, s.judge ORDER BY s.scored_at DESC, s.probe_version DESC
    ) = 1
), doses AS (
    SELECT d.model, arg_max(d.value, d.scored_at) AS dose FROM internal.scores d
    WHERE d.probe = 'delta_size' AND d.status = 'ok' GROUP BY d.model
), nearest AS (
    SELECT e.child, arg_max(e.relation, e.confidence) AS relation,
        arg_max(e.detail, e.confidence) AS detail, arg_max(e.share, e.confidence) AS share,
        bool_or(e.declared) AS declared
    FROM internal.believed e GROUP BY e.child
)
SELECT d.name AS model, n.distance, n.confidence, e.relation, e.detail, r.dtype, r.format,
    r.n_params, l.probe, l.probe_version, l.prompt_set, l.judge, l.n, l.value, l.ci_low, l.ci_high,
    l.unit, t.value AS ancestor_value, l.value / nullif(t.value, 0) AS retained,
    TRY_CAST(e.detail ->> 'bits' AS INTEGER) AS bits, z.dose, e.share, e.declared
FROM kin n
JOIN internal.models d ON d.id = n.id
JOIN latest l ON l.model = n.id
LEFT JOIN latest t ON t.model = internal.model_id(model) AND t.prompt_set = l.prompt_set
    AND t.judge = l.judge AND t.probe_version = l.probe_version
LEFT JOIN nearest e ON e.child = n.id
LEFT JOIN doses z ON z.model = n.id
LEFT JOIN internal.revisions r ON r.id = d.facts_revision
ORDER BY n.distance, d.name, l.prompt_set, l.judge;
COMMENT ON MACRO TABLE v1.survival IS 'A probe over all descendants of a model beside the value of the model itself: what each transformation left of it, with the bits a quantizer left, the measured size of the change against the ancestor that the sketch probes name, and the merge weight';

-- The past, kept as changes: a row that a scan changed or removed is kept once, with the scan that
-- ended it. The state at the end of scan S is, for each key, the earliest version that ended after
-- S, else the row that stands now, if it was there by then.

CREATE TABLE internal.closure_edges (
    parent INTEGER NOT NULL,
    child INTEGER NOT NULL,
    confidence DOUBLE NOT NULL
);
COMMENT ON TABLE internal.closure_edges IS 'Edges that the closure was computed from: what differs from those believed now is what to compute anew';
COMMENT ON COLUMN internal.closure_edges.parent IS 'Model id';
COMMENT ON COLUMN internal.closure_edges.child IS 'Model id';
COMMENT ON COLUMN internal.closure_edges.confidence IS 'Probability of the edge; 0 for a claim alone';

CREATE TABLE internal.model_versions AS
SELECT m.*, 0::INTEGER AS until_scan FROM internal.models m LIMIT 0;
COMMENT ON TABLE internal.model_versions IS 'Models as they were before a scan changed them';
COMMENT ON COLUMN internal.model_versions.id IS 'Model id';
COMMENT ON COLUMN internal.model_versions.key IS 'First 64 bits of a digest of source and source_id';
COMMENT ON COLUMN internal.model_versions.source IS 'Source then';
COMMENT ON COLUMN internal.model_versions.source_id IS 'Identity in the source';
COMMENT ON COLUMN internal.model_versions.name IS 'Name then';
COMMENT ON COLUMN internal.model_versions.name_key IS 'md5_number_lower(name)';
COMMENT ON COLUMN internal.model_versions.author IS 'Organisation or user part of the name';
COMMENT ON COLUMN internal.model_versions.revision IS 'Current revision then';
COMMENT ON COLUMN internal.model_versions.facts_revision IS 'Newest revision then whose weights were looked at';
COMMENT ON COLUMN internal.model_versions.created_at IS 'Creation date by the source, UTC';
COMMENT ON COLUMN internal.model_versions.last_modified IS 'Last change by the source then, UTC';
COMMENT ON COLUMN internal.model_versions.library IS 'Library tag then';
COMMENT ON COLUMN internal.model_versions.license IS 'License tag then';
COMMENT ON COLUMN internal.model_versions.gated IS 'Kind of gate then';
COMMENT ON COLUMN internal.model_versions.disabled IS 'Disabled by the source then';
COMMENT ON COLUMN internal.model_versions.downloads IS 'Downloads when the version ended; they alone make no version';
COMMENT ON COLUMN internal.model_versions.hidden IS 'An inferred ancestor that nobody published';
COMMENT ON COLUMN internal.model_versions.first_seen_scan IS 'Scan that first saw it';
COMMENT ON COLUMN internal.model_versions.last_seen_scan IS 'Scan that last saw it, then';
COMMENT ON COLUMN internal.model_versions.tombstone_reason IS 'Why it was gone then';
COMMENT ON COLUMN internal.model_versions.until_scan IS 'Scan that ended this version';

CREATE TABLE internal.edge_versions AS
SELECT e.*, 0::INTEGER AS until_scan FROM internal.edges e LIMIT 0;
COMMENT ON TABLE internal.edge_versions IS 'Edges as they were before a scan changed or removed them';
COMMENT ON COLUMN internal.edge_versions.child IS 'Model id of the child';
COMMENT ON COLUMN internal.edge_versions.child_revision IS 'Revision of the child that the edge was read from';
COMMENT ON COLUMN internal.edge_versions.parent IS 'Model id of the parent';
COMMENT ON COLUMN internal.edge_versions.parent_revision IS 'Revision of the parent whose weights were compared';
COMMENT ON COLUMN internal.edge_versions.relation IS 'Relation then';
COMMENT ON COLUMN internal.edge_versions.detail IS 'Particulars of the transformation';
COMMENT ON COLUMN internal.edge_versions.declared IS 'The child claimed it';
COMMENT ON COLUMN internal.edge_versions.declared_relation IS 'Relation that the child claimed';
COMMENT ON COLUMN internal.edge_versions.inferred IS 'The weights said it';
COMMENT ON COLUMN internal.edge_versions.confidence IS 'Probability of the inferred edge';
COMMENT ON COLUMN internal.edge_versions.direction_confidence IS 'Probability that the direction is right, given the pair';
COMMENT ON COLUMN internal.edge_versions.share IS 'Merge weight of the parent';
COMMENT ON COLUMN internal.edge_versions.evidence_id IS 'Group of evidence rows, which are kept for the edges of today only';
COMMENT ON COLUMN internal.edge_versions.first_seen_scan IS 'Scan that first had the edge';
COMMENT ON COLUMN internal.edge_versions.last_seen_scan IS 'Scan that last confirmed the edge, then';
COMMENT ON COLUMN internal.edge_versions.until_scan IS 'Scan that ended this version';

CREATE TABLE internal.finding_versions AS
SELECT f.*, 0::INTEGER AS until_scan FROM internal.findings f LIMIT 0;
COMMENT ON TABLE internal.finding_versions IS 'Findings as they were before a scan changed them';
COMMENT ON COLUMN internal.finding_versions.finding_id IS 'Stable over scans';
COMMENT ON COLUMN internal.finding_versions.kind IS 'Kind of finding';
COMMENT ON COLUMN internal.finding_versions.severity IS 'How bad';
COMMENT ON COLUMN internal.finding_versions.model IS 'Model id';
COMMENT ON COLUMN internal.finding_versions.ancestor IS 'Model id of the ancestor it is measured against';
COMMENT ON COLUMN internal.finding_versions.value IS 'Size of what was found';
COMMENT ON COLUMN internal.finding_versions.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN internal.finding_versions.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN internal.finding_versions.q_value IS 'p-value after correction for all comparisons';
COMMENT ON COLUMN internal.finding_versions.status IS 'new, open, fixed or ignored, then';
COMMENT ON COLUMN internal.finding_versions.evidence_id IS 'Group of evidence rows';
COMMENT ON COLUMN internal.finding_versions.detail IS 'Particulars';
COMMENT ON COLUMN internal.finding_versions.first_scan IS 'Scan that first had it';
COMMENT ON COLUMN internal.finding_versions.last_scan IS 'Scan that last had it, then';
COMMENT ON COLUMN internal.finding_versions.until_scan IS 'Scan that ended this version';

CREATE TABLE internal.score_versions AS
SELECT s.*, 0::INTEGER AS until_scan FROM internal.scores s LIMIT 0;
COMMENT ON TABLE internal.score_versions IS 'Probe results that a later run of the same probe replaced';
COMMENT ON COLUMN internal.score_versions.model IS 'Model id';
COMMENT ON COLUMN internal.score_versions.revision IS 'Revision id';
COMMENT ON COLUMN internal.score_versions.probe IS 'Probe name';
COMMENT ON COLUMN internal.score_versions.probe_version IS 'Version of the probe';
COMMENT ON COLUMN internal.score_versions.prompt_set IS 'Digest of the prompt set';
COMMENT ON COLUMN internal.score_versions.n IS 'Prompts scored';
COMMENT ON COLUMN internal.score_versions.status IS 'ok, inconclusive, unsupported or error';
COMMENT ON COLUMN internal.score_versions.value IS 'The estimate';
COMMENT ON COLUMN internal.score_versions.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN internal.score_versions.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN internal.score_versions.unit IS 'Unit of the value';
COMMENT ON COLUMN internal.score_versions.judge IS 'What graded the answers';
COMMENT ON COLUMN internal.score_versions.corrected IS 'Corrected for the error rates of the judge';
COMMENT ON COLUMN internal.score_versions.environment IS 'Software, hardware and decoding it ran under';
COMMENT ON COLUMN internal.score_versions.seconds IS 'Seconds it took';
COMMENT ON COLUMN internal.score_versions.scored_at IS 'When, UTC';
COMMENT ON COLUMN internal.score_versions.scan IS 'Scan that wrote it';
COMMENT ON COLUMN internal.score_versions.until_scan IS 'Scan that replaced it';

CREATE MACRO internal.models_at(at_scan) AS TABLE
SELECT * EXCLUDE (until_scan) FROM (
    SELECT v.* FROM internal.model_versions v WHERE v.until_scan > at_scan
    UNION ALL BY NAME
    SELECT m.*, 2147483647 AS until_scan FROM internal.models m
) x
WHERE x.first_seen_scan <= at_scan
QUALIFY row_number() OVER (PARTITION BY x.id ORDER BY x.until_scan) = 1;

CREATE MACRO internal.edges_at(at_scan) AS TABLE
SELECT * EXCLUDE (until_scan) FROM (
    SELECT v.* FROM internal.edge_versions v WHERE v.until_scan > at_scan
    UNION ALL BY NAME
    SELECT e.*, 2147483647 AS until_scan FROM internal.edges e
) x
WHERE x.first_seen_scan <= at_scan
QUALIFY row_number() OVER (PARTITION BY x.child, x.parent ORDER BY x.until_scan) = 1;

CREATE MACRO v1.models_as_of(scan) AS TABLE
SELECT m.name AS model, m.source, c.sha, m.author, m.created_at, m.last_modified, m.library,
    f.format, f.dtype, f.architecture, f.shape_key, f.n_params, m.license, m.gated, m.downloads,
    m.hidden, m.first_seen_scan, least(m.last_seen_scan, scan) AS last_seen_scan,
    m.tombstone_reason, m.source_id, m.disabled, c.tags, f.sha AS facts_sha, f.weights_digest,
    f.sketch_path IS NOT NULL AS sketched
FROM internal.models_at(scan) m
LEFT JOIN internal.revisions c ON c.id = m.revision
LEFT JOIN internal.revisions f ON f.id = m.facts_revision;
COMMENT ON MACRO TABLE v1.models_as_of IS 'v1.models as it was at the end of a scan, names among it; downloads are those last seen';

CREATE MACRO v1.edges_as_of(scan) AS TABLE
SELECT c.name AS child, cr.sha AS child_sha, p.name AS parent, pr.sha AS parent_sha,
    e.relation, e.detail, e.declared, e.inferred, e.confidence, e.direction_confidence, e.share,
    e.evidence_id, e.first_seen_scan, least(e.last_seen_scan, scan) AS last_seen_scan,
    e.declared_relation
FROM internal.edges_at(scan) e
JOIN internal.models_at(scan) c ON c.id = e.child
JOIN internal.models_at(scan) p ON p.id = e.parent
LEFT JOIN internal.revisions cr ON cr.id = e.child_revision
LEFT JOIN internal.revisions pr ON pr.id = e.parent_revision;
COMMENT ON MACRO TABLE v1.edges_as_of IS 'v1.edges as it was at the end of a scan';

CREATE MACRO v1.scores_as_of(scan) AS TABLE
SELECT m.name AS model, r.sha, s.* EXCLUDE (model, revision, until_scan)
FROM (
    SELECT v.* FROM internal.score_versions v WHERE v.until_scan > scan AND v.scan <= scan
    UNION ALL BY NAME
    SELECT t.*, 2147483647 AS until_scan FROM internal.scores t WHERE t.scan <= scan
) s
JOIN internal.models_at(scan) m ON m.id = s.model
JOIN internal.revisions r ON r.id = s.revision
QUALIFY row_number() OVER (
    PARTITION BY s.revision, s.probe, s.probe_version, s.prompt_set, s.judge ORDER BY s.until_scan
) = 1;
COMMENT ON MACRO TABLE v1.scores_as_of IS 'v1.scores as it was at the end of a scan';

CREATE MACRO v1.findings_as_of(scan) AS TABLE
SELECT f.finding_id, f.kind, f.severity, m.name AS model, a.name AS ancestor, f.value, f.ci_low,
    f.ci_high, f.q_value, f.status, f.evidence_id, f.first_scan,
    least(f.last_scan, scan) AS last_scan, f.detail
FROM (
    SELECT v.* FROM internal.finding_versions v WHERE v.until_scan > scan
    UNION ALL BY NAME
    SELECT t.*, 2147483647 AS until_scan FROM internal.findings t
) f
JOIN internal.models_at(scan) m ON m.id = f.model
LEFT JOIN internal.models_at(scan) a ON a.id = f.ancestor
WHERE f.first_scan <= scan
QUALIFY row_number() OVER (PARTITION BY f.finding_id ORDER BY f.until_scan) = 1;
COMMENT ON MACRO TABLE v1.findings_as_of IS 'v1.findings as it was at the end of a scan';

CREATE MACRO v1.descendants_as_of(model, scan, max_depth := 64) AS TABLE
WITH RECURSIVE believed AS (
    SELECT e.parent, e.child FROM internal.edges_at(scan) e
    WHERE e.inferred OR e.child NOT IN (
        SELECT i.child FROM internal.edges_at(scan) i WHERE i.inferred)
), reached AS (
    SELECT internal.model_id(model) AS id, 0 AS distance
    UNION
    SELECT b.child, r.distance + 1 FROM reached r JOIN believed b ON b.parent = r.id
    WHERE r.distance < max_depth
)
SELECT m.name AS model, min(r.distance) AS distance
FROM reached r JOIN internal.models_at(scan) m ON m.id = r.id
WHERE r.id <> internal.model_id(model)
GROUP BY m.name ORDER BY 2, 1;
COMMENT ON MACRO TABLE v1.descendants_as_of IS 'Everything that came from a model by the edges of the end of a scan';

CREATE MACRO main.models_as_of(scan) AS TABLE SELECT * FROM v1.models_as_of(scan);
CREATE MACRO main.edges_as_of(scan) AS TABLE SELECT * FROM v1.edges_as_of(scan);
CREATE MACRO main.scores_as_of(scan) AS TABLE SELECT * FROM v1.scores_as_of(scan);
CREATE MACRO main.findings_as_of(scan) AS TABLE SELECT * FROM v1.findings_as_of(scan);
CREATE MACRO main.descendants_as_of(model, scan, max_depth := 64) AS TABLE
SELECT * FROM v1.descendants_as_of(model, scan, max_depth := max_depth);

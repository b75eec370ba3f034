-- Schema v1: the public contract. Views and table macros only; columns are only ever added.

CREATE SCHEMA v1;

CREATE VIEW v1.models AS
SELECT m.name AS model, m.source, c.sha, m.author, m.created_at, m.last_modified, m.library,
    f.format, f.dtype, f.architecture, f.shape_key, f.n_params, m.license, m.gated, m.downloads,
    m.hidden, m.first_seen_scan, m.last_seen_scan, m.tombstone_reason,
    m.source_id, m.disabled, c.tags, f.sha AS facts_sha, f.weights_digest,
    f.sketch_path IS NOT NULL AS sketched
FROM internal.models m
LEFT JOIN internal.revisions c ON c.id = m.revision
LEFT JOIN internal.revisions f ON f.id = m.facts_revision;
COMMENT ON VIEW v1.models IS 'Models: listed by a source, named by cards only (source declared), or inferred (hidden)';
COMMENT ON COLUMN v1.models.model IS 'Current name, org/model; hidden:<digest> for a hidden model';
COMMENT ON COLUMN v1.models.source IS 'hub, dir, declared (no source lists it, cards name it) or inferred';
COMMENT ON COLUMN v1.models.sha IS 'Commit that the last listing or visit named';
COMMENT ON COLUMN v1.models.author IS 'Organisation or user part of the name';
COMMENT ON COLUMN v1.models.created_at IS 'Creation date by the source, UTC';
COMMENT ON COLUMN v1.models.last_modified IS 'Last change by the source, UTC';
COMMENT ON COLUMN v1.models.library IS 'Library tag';
COMMENT ON COLUMN v1.models.format IS 'Weight format: safetensors, gguf, torch, ...';
COMMENT ON COLUMN v1.models.dtype IS 'Number type of most weights';
COMMENT ON COLUMN v1.models.architecture IS 'Architecture that its config names';
COMMENT ON COLUMN v1.models.shape_key IS 'Digest of roles and shapes: the bucket of comparable models';
COMMENT ON COLUMN v1.models.n_params IS 'Number of weights';
COMMENT ON COLUMN v1.models.license IS 'License tag';
COMMENT ON COLUMN v1.models.gated IS 'Kind of gate, NULL when open';
COMMENT ON COLUMN v1.models.downloads IS 'Downloads by the source, last seen';
COMMENT ON COLUMN v1.models.hidden IS 'An inferred ancestor that nobody published';
COMMENT ON COLUMN v1.models.first_seen_scan IS 'Scan that first saw it';
COMMENT ON COLUMN v1.models.last_seen_scan IS 'Scan that last saw it';
COMMENT ON COLUMN v1.models.tombstone_reason IS 'Why it is no longer there (not_found, replaced, not_inferred); NULL while it is';
COMMENT ON COLUMN v1.models.source_id IS 'Identity in the source; outlives a rename';
COMMENT ON COLUMN v1.models.disabled IS 'Disabled by the source';
COMMENT ON COLUMN v1.models.tags IS 'Tags of the model card';
COMMENT ON COLUMN v1.models.facts_sha IS 'Commit whose weights format, dtype and the like describe; may be older than sha';
COMMENT ON COLUMN v1.models.weights_digest IS 'Digest over the digests of all weight files; exact copies share it';
COMMENT ON COLUMN v1.models.sketched IS 'A sketch of its weights is in the store';

CREATE VIEW v1.edges AS
SELECT c.name AS child, cr.sha AS child_sha, p.name AS parent, pr.sha AS parent_sha,
    e.relation, e.detail, e.declared, e.inferred, e.confidence, e.direction_confidence, e.share,
    e.evidence_id, e.first_seen_scan, e.last_seen_scan, e.declared_relation
FROM internal.edges e
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

CREATE VIEW v1.candidates AS
SELECT c.name AS child, p.name AS parent, k.rank, k.score, k.rejected_because
FROM internal.candidates k
JOIN internal.models c ON c.id = k.child
JOIN internal.models p ON p.id = k.parent;
COMMENT ON VIEW v1.candidates IS 'Runners-up: parents that were considered and lost';
COMMENT ON COLUMN v1.candidates.child IS 'Name of the child';
COMMENT ON COLUMN v1.candidates.parent IS 'Name of the parent that lost';
COMMENT ON COLUMN v1.candidates.rank IS 'Place among the losers, from 1';
COMMENT ON COLUMN v1.candidates.score IS 'Distance to the child relative to the norm of the candidate';
COMMENT ON COLUMN v1.candidates.rejected_because IS 'Why it lost';

CREATE VIEW v1.evidence AS
SELECT x.evidence_id, x.kind, x.statistic, x.value, x.ci_low, x.ci_high, x.n, x.p_value,
    x.code_version, x.inputs_digest, x.llr
FROM internal.evidence x;
COMMENT ON VIEW v1.evidence IS 'Typed clues for and against edges and findings';
COMMENT ON COLUMN v1.evidence.evidence_id IS 'Groups the clues of one edge or finding';
COMMENT ON COLUMN v1.evidence.kind IS 'Kind of clue: distance, frozen, time, grid, ...';
COMMENT ON COLUMN v1.evidence.statistic IS 'What was measured';
COMMENT ON COLUMN v1.evidence.value IS 'Its value';
COMMENT ON COLUMN v1.evidence.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN v1.evidence.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN v1.evidence.n IS 'How many observations';
COMMENT ON COLUMN v1.evidence.p_value IS 'p-value under the null';
COMMENT ON COLUMN v1.evidence.code_version IS 'Version of the code that measured';
COMMENT ON COLUMN v1.evidence.inputs_digest IS 'Digest of the inputs it measured';
COMMENT ON COLUMN v1.evidence.llr IS 'Natural-log likelihood ratio; positive speaks for';

CREATE VIEW v1.scores AS
SELECT m.name AS model, r.sha, s.probe, s.probe_version, s.prompt_set, s.n, s.status, s.value,
    s.ci_low, s.ci_high, s.unit, s.judge, s.corrected, s.environment, s.seconds, s.scored_at, s.scan
FROM internal.scores s
JOIN internal.models m ON m.id = s.model
JOIN internal.revisions r ON r.id = s.revision;
COMMENT ON VIEW v1.scores IS 'Probe results with their denominators';
COMMENT ON COLUMN v1.scores.model IS 'Name of the model';
COMMENT ON COLUMN v1.scores.sha IS 'Commit that was probed';
COMMENT ON COLUMN v1.scores.probe IS 'Probe name';
COMMENT ON COLUMN v1.scores.probe_version IS 'Version of the probe';
COMMENT ON COLUMN v1.scores.prompt_set IS 'Digest of the prompt set, see v1.prompt_sets';
COMMENT ON COLUMN v1.scores.n IS 'Prompts scored';
COMMENT ON COLUMN v1.scores.status IS 'ok, inconclusive, unsupported or error; a probe that did not run is never a pass';
COMMENT ON COLUMN v1.scores.value IS 'The estimate';
COMMENT ON COLUMN v1.scores.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN v1.scores.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN v1.scores.unit IS 'Unit of the value';
COMMENT ON COLUMN v1.scores.judge IS 'What graded the answers';
COMMENT ON COLUMN v1.scores.corrected IS 'Corrected for the error rates of the judge';
COMMENT ON COLUMN v1.scores.environment IS 'Software, hardware and decoding it ran under';
COMMENT ON COLUMN v1.scores.seconds IS 'Seconds it took';
COMMENT ON COLUMN v1.scores.scored_at IS 'When, UTC';
COMMENT ON COLUMN v1.scores.scan IS 'Scan that wrote it';

CREATE VIEW v1.findings AS
SELECT f.finding_id, f.kind, f.severity, m.name AS model, a.name AS ancestor, f.value, f.ci_low,
    f.ci_high, f.q_value, f.status, f.evidence_id, f.first_scan, f.last_scan, f.detail
FROM internal.findings f
JOIN internal.models m ON m.id = f.model
LEFT JOIN internal.models a ON a.id = f.ancestor;
COMMENT ON VIEW v1.findings IS 'What a release owner should look at';
COMMENT ON COLUMN v1.findings.finding_id IS 'Stable over scans';
COMMENT ON COLUMN v1.findings.kind IS 'stripped_safety, undeclared_parent, misdeclared_parent, unsafe_file, ...';
COMMENT ON COLUMN v1.findings.severity IS 'How bad';
COMMENT ON COLUMN v1.findings.model IS 'Name of the model';
COMMENT ON COLUMN v1.findings.ancestor IS 'Name of the ancestor it is measured against';
COMMENT ON COLUMN v1.findings.value IS 'Size of what was found';
COMMENT ON COLUMN v1.findings.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN v1.findings.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN v1.findings.q_value IS 'p-value after correction for all comparisons';
COMMENT ON COLUMN v1.findings.status IS 'new (first scan), open, fixed or ignored';
COMMENT ON COLUMN v1.findings.evidence_id IS 'Group of rows in v1.evidence';
COMMENT ON COLUMN v1.findings.first_scan IS 'Scan that first had it';
COMMENT ON COLUMN v1.findings.last_scan IS 'Scan that last had it';
COMMENT ON COLUMN v1.findings.detail IS 'Particulars, free JSON';

CREATE VIEW v1.coverage AS
SELECT v.scan, coalesce(m.name, v.name) AS model, v.outcome, v.stage, v.reason, v.path,
    v.byte_offset, v.requests, v.bytes, v.seconds, v.sha, v.visited_at
FROM internal.coverage v
LEFT JOIN internal.models m ON m.id = v.model;
COMMENT ON VIEW v1.coverage IS 'What became of each model in each scan: read, skipped, gated, malformed, timed out, and why';
COMMENT ON COLUMN v1.coverage.scan IS 'Scan number';
COMMENT ON COLUMN v1.coverage.model IS 'Name of the model';
COMMENT ON COLUMN v1.coverage.outcome IS 'ok, unchanged, skipped, no_weights, unsupported, gated, not_found, malformed, timeout or failed';
COMMENT ON COLUMN v1.coverage.stage IS 'Stage at which the visit ended';
COMMENT ON COLUMN v1.coverage.reason IS 'Why, in words';
COMMENT ON COLUMN v1.coverage.path IS 'File that stopped it';
COMMENT ON COLUMN v1.coverage.byte_offset IS 'Byte in that file';
COMMENT ON COLUMN v1.coverage.requests IS 'Requests spent on the model';
COMMENT ON COLUMN v1.coverage.bytes IS 'Bytes read for the model';
COMMENT ON COLUMN v1.coverage.seconds IS 'Seconds spent on the model';
COMMENT ON COLUMN v1.coverage.sha IS 'Commit that was visited';
COMMENT ON COLUMN v1.coverage.visited_at IS 'When, UTC';

CREATE VIEW v1.scans AS
WITH listed AS (
    SELECT l.scan, count(*) AS listed FROM internal.listings l GROUP BY l.scan
), visited AS (
    SELECT v.scan, count(*) AS visited, count(*) FILTER (v.outcome = 'ok') AS ok,
        count(*) FILTER (v.outcome = 'unchanged') AS unchanged,
        count(*) FILTER (v.outcome NOT IN ('ok', 'unchanged')) AS not_read,
        sum(v.requests)::BIGINT AS requests, sum(v.bytes)::BIGINT AS bytes,
        sum(v.seconds) AS seconds
    FROM internal.coverage v GROUP BY v.scan
)
SELECT s.scan, s.kind, s.source, s.target, s.parameters, s.status, s.started_at, s.finished_at,
    coalesce(l.listed, 0) AS listed, coalesce(v.visited, 0) AS visited, coalesce(v.ok, 0) AS ok,
    coalesce(v.unchanged, 0) AS unchanged, coalesce(v.not_read, 0) AS not_read,
    coalesce(v.requests, 0) AS requests, coalesce(v.bytes, 0) AS bytes,
    coalesce(v.seconds, 0) AS seconds, s.listing_done
FROM internal.scans s
LEFT JOIN listed l ON l.scan = s.scan
LEFT JOIN visited v ON v.scan = s.scan;
COMMENT ON VIEW v1.scans IS 'Runs that filled the store, with their totals';
COMMENT ON COLUMN v1.scans.scan IS 'Number of the scan, counted from 1';
COMMENT ON COLUMN v1.scans.kind IS 'Verb that started it: map, scan, infer, probe';
COMMENT ON COLUMN v1.scans.source IS 'Where it read';
COMMENT ON COLUMN v1.scans.target IS 'Release that a map is about, NULL for a scan of everything';
COMMENT ON COLUMN v1.scans.parameters IS 'Filters and limits it was started with';
COMMENT ON COLUMN v1.scans.status IS 'running, interrupted (both can be resumed), done, failed, abandoned';
COMMENT ON COLUMN v1.scans.started_at IS 'When it started, UTC';
COMMENT ON COLUMN v1.scans.finished_at IS 'When it ended, UTC; NULL while it runs or after a kill';
COMMENT ON COLUMN v1.scans.listed IS 'Models that its listing named';
COMMENT ON COLUMN v1.scans.visited IS 'Models with a row in v1.coverage';
COMMENT ON COLUMN v1.scans.ok IS 'Visited and read';
COMMENT ON COLUMN v1.scans.unchanged IS 'Visited, nothing new since an earlier scan';
COMMENT ON COLUMN v1.scans.not_read IS 'Visited, but not read; the reasons stand in v1.coverage';
COMMENT ON COLUMN v1.scans.requests IS 'Requests spent on models';
COMMENT ON COLUMN v1.scans.bytes IS 'Bytes read for models';
COMMENT ON COLUMN v1.scans.seconds IS 'Seconds spent on models, summed over workers';
COMMENT ON COLUMN v1.scans.listing_done IS 'The last page of the listing is in the store';

CREATE VIEW v1.changes AS
SELECT c.scan, c.kind, c.subject, c.before, c.after, c.changed_at FROM internal.changes c;
COMMENT ON VIEW v1.changes IS 'What a scan found different from what the store held; new models are those with first_seen_scan';
COMMENT ON COLUMN v1.changes.scan IS 'Scan that saw it';
COMMENT ON COLUMN v1.changes.kind IS 'renamed, revision, removed, returned, claim_added, claim_removed, edge_added, edge_removed, edge_changed, finding_new, finding_fixed';
COMMENT ON COLUMN v1.changes.subject IS 'Name of the model, child <- parent, or finding id';
COMMENT ON COLUMN v1.changes.before IS 'Before';
COMMENT ON COLUMN v1.changes.after IS 'After';
COMMENT ON COLUMN v1.changes.changed_at IS 'When it was seen, UTC';

CREATE VIEW v1.claims AS
SELECT m.name AS child, r.sha AS child_sha, d.raw, p.name AS parent, d.relation, d.via,
    d.parent_revision, d.note
FROM internal.declared d
JOIN internal.models m ON m.id = d.model
LEFT JOIN internal.revisions r ON r.id = d.revision
LEFT JOIN internal.models p ON p.id = d.parent;
COMMENT ON VIEW v1.claims IS 'Parents that models claim, word for word, resolved or not';
COMMENT ON COLUMN v1.claims.child IS 'Model that makes the claim';
COMMENT ON COLUMN v1.claims.child_sha IS 'Commit that makes the claim';
COMMENT ON COLUMN v1.claims.raw IS 'The text as written';
COMMENT ON COLUMN v1.claims.parent IS 'The model it resolves to, NULL when it resolves to none';
COMMENT ON COLUMN v1.claims.relation IS 'Claimed relation';
COMMENT ON COLUMN v1.claims.via IS 'Where it stands: front_matter, tag, config, adapter_config, mergekit, body';
COMMENT ON COLUMN v1.claims.parent_revision IS 'Claimed revision of the parent';
COMMENT ON COLUMN v1.claims.note IS 'Remark of the reader';

CREATE VIEW v1.files AS
SELECT m.name AS model, r.sha, f.path, f.size, f.sha256
FROM internal.files f
JOIN internal.revisions r ON r.id = f.revision
JOIN internal.models m ON m.id = r.model;
COMMENT ON VIEW v1.files IS 'Files of revisions as the source lists them';
COMMENT ON COLUMN v1.files.model IS 'Name of the model';
COMMENT ON COLUMN v1.files.sha IS 'Commit';
COMMENT ON COLUMN v1.files.path IS 'Path inside the repository';
COMMENT ON COLUMN v1.files.size IS 'Bytes';
COMMENT ON COLUMN v1.files.sha256 IS 'Digest of the content where the source knows it';

CREATE VIEW v1.prompt_sets AS
SELECT p.digest, p.name, p.license, p.origin, p.n_harmful, p.n_harmless, p.added_at
FROM internal.prompt_sets p;
COMMENT ON VIEW v1.prompt_sets IS 'Prompt sets that scores refer to; the prompts themselves are not kept';
COMMENT ON COLUMN v1.prompt_sets.digest IS 'Digest of the prompts: the version';
COMMENT ON COLUMN v1.prompt_sets.name IS 'Name';
COMMENT ON COLUMN v1.prompt_sets.license IS 'License of the prompts';
COMMENT ON COLUMN v1.prompt_sets.origin IS 'Where the prompts come from';
COMMENT ON COLUMN v1.prompt_sets.n_harmful IS 'Harmful prompts';
COMMENT ON COLUMN v1.prompt_sets.n_harmless IS 'Harmless prompts';
COMMENT ON COLUMN v1.prompt_sets.added_at IS 'When it was first used here, UTC';

CREATE VIEW v1.probes AS
SELECT p.probe, p.probe_version, p.tier, p.unit, p.description FROM internal.probes p;
COMMENT ON VIEW v1.probes IS 'Definitions of the probes that scores refer to';
COMMENT ON COLUMN v1.probes.probe IS 'Name';
COMMENT ON COLUMN v1.probes.probe_version IS 'Version';
COMMENT ON COLUMN v1.probes.tier IS 'Cost: metadata, sketch, weights, forward, generation';
COMMENT ON COLUMN v1.probes.unit IS 'Unit of its value';
COMMENT ON COLUMN v1.probes.description IS 'What it measures';

-- The edges that the closure follows. A claim counts only for a child whose weights name no
-- parent, and only while the weights have not spoken against that very claim.
CREATE VIEW internal.believed AS
SELECT e.child, e.parent, e.relation, e.detail, e.declared, e.inferred,
    coalesce(e.confidence, 0) AS confidence, e.share, e.evidence_id
FROM internal.edges e
WHERE e.inferred OR (
    e.child NOT IN (SELECT i.child FROM internal.edges i WHERE i.inferred)
    AND NOT EXISTS (
        SELECT 1 FROM internal.candidates k WHERE k.child = e.child AND k.parent = e.parent
    )
);
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

-- Names to ids. Macro parameters are spelled so that they cannot meet a column of the same name.
CREATE MACRO internal.find_model(wanted) AS (
    SELECT m.id
    FROM internal.name_index x JOIN internal.models m ON m.id = x.model
    WHERE x.name_key = md5_number_lower(wanted) AND (
        m.name = wanted
        OR m.id IN (SELECT h.model FROM internal.former_names h WHERE h.name = wanted)
    )
    ORDER BY m.name = wanted DESC, m.tombstone_reason IS NULL DESC, m.source <> 'declared' DESC,
        m.last_seen_scan DESC, m.id
    LIMIT 1
);

CREATE MACRO internal.model_id(wanted) AS
    coalesce(internal.find_model(wanted), error('no model named ' || wanted || ' in this store'));

CREATE MACRO v1.descendants(model, max_depth := NULL, min_confidence := 0) AS TABLE
SELECT d.name AS model, k.distance, k.confidence, d.hidden, d.source, d.tombstone_reason
FROM internal.closure k JOIN internal.models d ON d.id = k.descendant
WHERE k.ancestor = internal.model_id(model) AND k.confidence >= min_confidence
    AND (max_depth IS NULL OR k.distance <= max_depth)
ORDER BY k.distance, d.name;
COMMENT ON MACRO TABLE v1.descendants IS 'Everything that comes from a model: name, distance, and the weakest edge on the surest way';

CREATE MACRO v1.ancestors(model, max_depth := NULL, min_confidence := 0) AS TABLE
SELECT a.name AS model, k.distance, k.confidence, a.hidden, a.source, a.tombstone_reason
FROM internal.closure_up k JOIN internal.models a ON a.id = k.ancestor
WHERE k.descendant = internal.model_id(model) AND k.confidence >= min_confidence
    AND (max_depth IS NULL OR k.distance <= max_depth)
ORDER BY k.distance, a.name;
COMMENT ON MACRO TABLE v1.ancestors IS 'Everything that a model comes from';

CREATE MACRO v1.path(a, b) AS TABLE
WITH ends AS (
    SELECT internal.model_id(a) AS top, internal.model_id(b) AS bottom
), down AS (
    SELECT k.descendant AS node, k.distance FROM internal.closure k
    WHERE k.ancestor = (SELECT n.top FROM ends n)
    UNION ALL SELECT n.top, 0 FROM ends n
), up AS (
    SELECT k.ancestor AS node, k.distance FROM internal.closure_up k
    WHERE k.descendant = (SELECT n.bottom FROM ends n)
    UNION ALL SELECT n.bottom, 0 FROM ends n
)
SELECT d.distance + 1 AS step, p.name AS parent, c.name AS child, e.relation, e.confidence,
    e.declared, e.inferred, e.evidence_id
FROM internal.believed e
JOIN down d ON d.node = e.parent
JOIN up u ON u.node = e.child
JOIN internal.models p ON p.id = e.parent
JOIN internal.models c ON c.id = e.child
WHERE d.distance + 1 + u.distance = (
    SELECT w.distance FROM down w JOIN ends n ON w.node = n.bottom
)
ORDER BY step, p.name, c.name;
COMMENT ON MACRO TABLE v1.path IS 'Every step of the shortest ways from ancestor a down to descendant b';

CREATE MACRO v1.stripped(model) AS TABLE
SELECT d.name AS model, a.name AS ancestor, k.distance, f.severity, f.value, f.ci_low, f.ci_high,
    f.q_value, f.status, f.evidence_id, f.finding_id, f.first_scan, f.last_scan
FROM internal.findings f
JOIN internal.closure k ON k.descendant = f.model
JOIN internal.models d ON d.id = f.model
LEFT JOIN internal.models a ON a.id = f.ancestor
WHERE k.ancestor = internal.model_id(model) AND f.kind = 'stripped_safety'
    AND f.status IN ('new', 'open')
ORDER BY f.value DESC NULLS LAST, d.name, a.name;
COMMENT ON MACRO TABLE v1.stripped IS 'Descendants of a model that lost what an ancestor had';

CREATE MACRO v1.disagreements() AS TABLE
WITH inferred AS (
    SELECT e.child, list(m.name ORDER BY e.confidence DESC, m.name) AS parents
    FROM internal.edges e JOIN internal.models m ON m.id = e.parent
    WHERE e.inferred GROUP BY e.child
)
SELECT c.name AS child, p.name AS declared_parent, e.declared_relation,
    CASE WHEN e.inferred THEN e.relation END AS inferred_relation,
    i.parents AS inferred_parents,
    CASE WHEN e.inferred THEN 'relation'
        WHEN u.ancestor IS NOT NULL THEN 'ancestor'
        WHEN s.sketch_path IS NULL THEN 'parent_not_read'
        WHEN i.parents IS NULL THEN 'rejected'
        ELSE 'parent' END AS verdict,
    k.rejected_because
FROM internal.edges e
JOIN internal.models c ON c.id = e.child
JOIN internal.models p ON p.id = e.parent
LEFT JOIN internal.revisions s ON s.id = p.facts_revision
LEFT JOIN inferred i ON i.child = e.child
LEFT JOIN internal.closure_up u ON u.descendant = e.child AND u.ancestor = e.parent
LEFT JOIN internal.candidates k ON k.child = e.child AND k.parent = e.parent
WHERE e.declared AND CASE WHEN e.inferred
    THEN e.declared_relation IS NOT NULL AND e.declared_relation <> e.relation
    ELSE i.parents IS NOT NULL OR k.child IS NOT NULL END
ORDER BY c.name, p.name;
COMMENT ON MACRO TABLE v1.disagreements IS 'Claims that the weights do not bear out: relation (other relation), ancestor (further up), parent (another parent), rejected (no parent at all), parent_not_read (the claimed parent has no sketch)';

CREATE MACRO v1.undeclared(model) AS TABLE
WITH kin AS (
    SELECT k.descendant AS id, k.distance, k.confidence FROM internal.closure k
    WHERE k.ancestor = internal.model_id(model)
), named AS (
    SELECT e.child, list(m.name ORDER BY m.name) AS parents
    FROM internal.edges e JOIN internal.models m ON m.id = e.parent
    WHERE e.declared AND e.child IN (SELECT n.id FROM kin n) GROUP BY e.child
)
SELECT d.name AS model, n.distance, n.confidence, p.name AS parent, e.relation,
    e.confidence AS edge_confidence, e.evidence_id, x.parents AS declared_parents
FROM kin n
JOIN internal.models d ON d.id = n.id
JOIN internal.edges e ON e.child = n.id AND e.inferred
JOIN internal.models p ON p.id = e.parent
LEFT JOIN named x ON x.child = n.id
WHERE (e.parent = internal.model_id(model) OR e.parent IN (SELECT o.id FROM kin o))
    AND NOT d.hidden
    AND n.id NOT IN (
        SELECT c.child FROM internal.edges c
        WHERE c.declared
            AND (c.parent = internal.model_id(model) OR c.parent IN (SELECT o.id FROM kin o))
    )
ORDER BY n.distance, d.name, p.name;
COMMENT ON MACRO TABLE v1.undeclared IS 'Descendants whose weights come from a model and whose cards name neither it nor another of its descendants';

CREATE MACRO v1.survival(model, probe) AS TABLE
WITH kin AS (
    SELECT k.descendant AS id, k.distance, k.confidence FROM internal.closure k
    WHERE k.ancestor = internal.model_id(model)
), latest AS (
    SELECT s.* FROM internal.scores s
    WHERE s.probe = probe AND s.status = 'ok'
    QUALIFY row_number() OVER (
        PARTITION BY s.model, s.prompt_set, s.judge ORDER BY s.scored_at DESC, s.probe_version DESC
    ) = 1
), nearest AS (
    SELECT e.child, arg_max(e.relation, e.confidence) AS relation,
        arg_max(e.detail, e.confidence) AS detail
    FROM internal.believed e GROUP BY e.child
)
SELECT d.name AS model, n.distance, n.confidence, e.relation, e.detail, r.dtype, r.format,
    r.n_params, l.probe, l.probe_version, l.prompt_set, l.judge, l.n, l.value, l.ci_low, l.ci_high,
    l.unit, t.value AS ancestor_value, l.value / nullif(t.value, 0) AS retained
FROM kin n
JOIN internal.models d ON d.id = n.id
JOIN latest l ON l.model = n.id
LEFT JOIN latest t ON t.model = internal.model_id(model) AND t.prompt_set = l.prompt_set
    AND t.judge = l.judge AND t.probe_version = l.probe_version
LEFT JOIN nearest e ON e.child = n.id
LEFT JOIN internal.revisions r ON r.id = d.facts_revision
ORDER BY n.distance, d.name, l.prompt_set, l.judge;
COMMENT ON MACRO TABLE v1.survival IS 'A probe over all descendants of a model beside the value of the model itself: what each transformation left of it';

-- The same macros without a schema, for who types descendants('org/model') in any DuckDB shell.
CREATE MACRO main.descendants(model, max_depth := NULL, min_confidence := 0) AS TABLE
SELECT * FROM v1.descendants(model, max_depth := max_depth, min_confidence := min_confidence);
CREATE MACRO main.ancestors(model, max_depth := NULL, min_confidence := 0) AS TABLE
SELECT * FROM v1.ancestors(model, max_depth := max_depth, min_confidence := min_confidence);
CREATE MACRO main.path(a, b) AS TABLE SELECT * FROM v1.path(a, b);
CREATE MACRO main.stripped(model) AS TABLE SELECT * FROM v1.stripped(model);
CREATE MACRO main.disagreements() AS TABLE SELECT * FROM v1.disagreements();
CREATE MACRO main.undeclared(model) AS TABLE SELECT * FROM v1.undeclared(model);
CREATE MACRO main.survival(model, probe) AS TABLE SELECT * FROM v1.survival(model, probe);

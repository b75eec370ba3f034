-- The tables of a store. They are private: people read the views of schema v1.
--
-- No table has a primary key, a foreign key or an index. There is one writer, which keeps the
-- identities itself; bulk upserts are two to four times faster without them, and index changes are
-- what fails in replayed write-ahead logs. Look-ups lean on order instead: ids are dense and grow
-- with time, `name_index` and the closures are rebuilt sorted.
-- All timestamps are UTC without a zone.

CREATE TABLE internal.scans (
    scan INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    target VARCHAR,
    parameters JSON NOT NULL,
    status VARCHAR NOT NULL,
    cursor VARCHAR,
    listing_done BOOLEAN NOT NULL,
    started_at TIMESTAMP NOT NULL,
    finished_at TIMESTAMP
);
COMMENT ON TABLE internal.scans IS 'Runs that fill the store';
COMMENT ON COLUMN internal.scans.scan IS 'Number of the scan, counted from 1';
COMMENT ON COLUMN internal.scans.kind IS 'Verb that started it: map, scan, infer, probe';
COMMENT ON COLUMN internal.scans.source IS 'Where it reads: hub, dir:PATH, store';
COMMENT ON COLUMN internal.scans.target IS 'Release that a map is about, NULL for a scan of everything';
COMMENT ON COLUMN internal.scans.parameters IS 'Filters and limits it was started with';
COMMENT ON COLUMN internal.scans.status IS 'running, interrupted (both can be resumed), done, failed, abandoned';
COMMENT ON COLUMN internal.scans.cursor IS 'Where the listing goes on; committed together with the page before it';
COMMENT ON COLUMN internal.scans.listing_done IS 'The last page of the listing is in the store';
COMMENT ON COLUMN internal.scans.started_at IS 'When it started, UTC';
COMMENT ON COLUMN internal.scans.finished_at IS 'When it ended, UTC; NULL while it runs or after a kill';

CREATE TABLE internal.models (
    id INTEGER NOT NULL,
    key UBIGINT NOT NULL,
    source VARCHAR NOT NULL,
    source_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    name_key UBIGINT NOT NULL,
    author VARCHAR,
    revision INTEGER,
    facts_revision INTEGER,
    created_at TIMESTAMP,
    last_modified TIMESTAMP,
    library VARCHAR,
    license VARCHAR,
    gated VARCHAR,
    disabled BOOLEAN NOT NULL,
    downloads BIGINT,
    hidden BOOLEAN NOT NULL,
    first_seen_scan INTEGER NOT NULL,
    last_seen_scan INTEGER NOT NULL,
    tombstone_reason VARCHAR
);
COMMENT ON TABLE internal.models IS 'Models: listed by a source, named by a card only (source declared), or inferred (hidden)';
COMMENT ON COLUMN internal.models.id IS 'Dense number of the model inside this store';
COMMENT ON COLUMN internal.models.key IS 'First 64 bits of a digest of source and source_id, for joins';
COMMENT ON COLUMN internal.models.source IS 'hub, dir, declared or inferred';
COMMENT ON COLUMN internal.models.source_id IS 'Identity in the source; outlives a rename';
COMMENT ON COLUMN internal.models.name IS 'Current name';
COMMENT ON COLUMN internal.models.name_key IS 'md5_number_lower(name), for look-ups';
COMMENT ON COLUMN internal.models.author IS 'Organisation or user part of the name';
COMMENT ON COLUMN internal.models.revision IS 'Revision that the last listing or visit named';
COMMENT ON COLUMN internal.models.facts_revision IS 'Newest revision whose weights were looked at';
COMMENT ON COLUMN internal.models.created_at IS 'Creation date by the source, UTC';
COMMENT ON COLUMN internal.models.last_modified IS 'Last change by the source, UTC';
COMMENT ON COLUMN internal.models.library IS 'Library tag';
COMMENT ON COLUMN internal.models.license IS 'License tag';
COMMENT ON COLUMN internal.models.gated IS 'Kind of gate, NULL when open';
COMMENT ON COLUMN internal.models.disabled IS 'Disabled by the source';
COMMENT ON COLUMN internal.models.downloads IS 'Downloads by the source, last seen';
COMMENT ON COLUMN internal.models.hidden IS 'An inferred ancestor that nobody published';
COMMENT ON COLUMN internal.models.first_seen_scan IS 'Scan that first saw it';
COMMENT ON COLUMN internal.models.last_seen_scan IS 'Scan that last saw it';
COMMENT ON COLUMN internal.models.tombstone_reason IS 'Why it is no longer there (not_found, replaced, not_inferred); NULL while it is';

CREATE TABLE internal.name_index (
    name_key UBIGINT NOT NULL,
    model INTEGER NOT NULL
);
COMMENT ON TABLE internal.name_index IS 'Every name a model has or had, by key; sorted at each rebuild, appended to between';
COMMENT ON COLUMN internal.name_index.name_key IS 'md5_number_lower(name)';
COMMENT ON COLUMN internal.name_index.model IS 'Model id';

CREATE TABLE internal.former_names (
    model INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    scan INTEGER NOT NULL
);
COMMENT ON TABLE internal.former_names IS 'Names that models had before a rename';
COMMENT ON COLUMN internal.former_names.model IS 'Model id';
COMMENT ON COLUMN internal.former_names.name IS 'Former name';
COMMENT ON COLUMN internal.former_names.scan IS 'Scan that saw the new name';

CREATE TABLE internal.revisions (
    id INTEGER NOT NULL,
    model INTEGER NOT NULL,
    sha VARCHAR NOT NULL,
    first_seen_scan INTEGER NOT NULL,
    seen_at TIMESTAMP NOT NULL,
    tags VARCHAR[],
    format VARCHAR,
    dtype VARCHAR,
    architecture VARCHAR,
    shape_key VARCHAR,
    n_params BIGINT,
    sketch_plan VARCHAR,
    sketch_digest VARCHAR,
    sketch_path VARCHAR,
    weights_digest VARCHAR,
    config JSON,
    outcome VARCHAR,
    visited_plan VARCHAR,
    visited_at TIMESTAMP
);
COMMENT ON TABLE internal.revisions IS 'Commits of models, and what a visit found in them';
COMMENT ON COLUMN internal.revisions.id IS 'Dense number of the revision inside this store';
COMMENT ON COLUMN internal.revisions.model IS 'Model id';
COMMENT ON COLUMN internal.revisions.sha IS 'Commit sha, or the content digest of a folder';
COMMENT ON COLUMN internal.revisions.first_seen_scan IS 'Scan that first saw it';
COMMENT ON COLUMN internal.revisions.seen_at IS 'When it was first seen, UTC';
COMMENT ON COLUMN internal.revisions.tags IS 'Tags of the model card';
COMMENT ON COLUMN internal.revisions.format IS 'Weight format: safetensors, gguf, torch, ...';
COMMENT ON COLUMN internal.revisions.dtype IS 'Number type of most weights';
COMMENT ON COLUMN internal.revisions.architecture IS 'Architecture that its config names';
COMMENT ON COLUMN internal.revisions.shape_key IS 'Digest of roles and shapes: the bucket of comparable models';
COMMENT ON COLUMN internal.revisions.n_params IS 'Number of weights';
COMMENT ON COLUMN internal.revisions.sketch_plan IS 'Version of the plan that the sketch follows';
COMMENT ON COLUMN internal.revisions.sketch_digest IS 'sha256 of the sketch file';
COMMENT ON COLUMN internal.revisions.sketch_path IS 'Sketch file, relative to the sketch folder';
COMMENT ON COLUMN internal.revisions.weights_digest IS 'Digest over the digests of all weight files; exact copies share it';
COMMENT ON COLUMN internal.revisions.config IS 'config.json, bounded';
COMMENT ON COLUMN internal.revisions.outcome IS 'Outcome of the last visit that looked at it';
COMMENT ON COLUMN internal.revisions.visited_plan IS 'Plan version of that visit';
COMMENT ON COLUMN internal.revisions.visited_at IS 'When it was last visited, UTC';

CREATE TABLE internal.files (
    revision INTEGER NOT NULL,
    path VARCHAR NOT NULL,
    size BIGINT,
    sha256 VARCHAR,
    blob VARCHAR
);
COMMENT ON TABLE internal.files IS 'Files of revisions as the source lists them';
COMMENT ON COLUMN internal.files.revision IS 'Revision id';
COMMENT ON COLUMN internal.files.path IS 'Path inside the repository; content, never a path to write to';
COMMENT ON COLUMN internal.files.size IS 'Bytes';
COMMENT ON COLUMN internal.files.sha256 IS 'Digest of the content where the source knows it';
COMMENT ON COLUMN internal.files.blob IS 'Any other content identifier';

CREATE TABLE internal.listings (
    scan INTEGER NOT NULL,
    model INTEGER NOT NULL
);
COMMENT ON TABLE internal.listings IS 'What each scan listed; a listed model without coverage still waits for its visit';
COMMENT ON COLUMN internal.listings.scan IS 'Scan number';
COMMENT ON COLUMN internal.listings.model IS 'Model id';

CREATE TABLE internal.coverage (
    scan INTEGER NOT NULL,
    model INTEGER,
    name VARCHAR NOT NULL,
    sha VARCHAR,
    outcome VARCHAR NOT NULL,
    stage VARCHAR NOT NULL,
    reason VARCHAR,
    path VARCHAR,
    byte_offset BIGINT,
    requests BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    seconds DOUBLE NOT NULL,
    visited_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE internal.coverage IS 'What became of each model in each scan';
COMMENT ON COLUMN internal.coverage.scan IS 'Scan number';
COMMENT ON COLUMN internal.coverage.model IS 'Model id, NULL for a name that the store does not hold';
COMMENT ON COLUMN internal.coverage.name IS 'Name at the time of the visit';
COMMENT ON COLUMN internal.coverage.sha IS 'Revision that was visited';
COMMENT ON COLUMN internal.coverage.outcome IS 'One of the outcomes: ok, unchanged, skipped, no_weights, ...';
COMMENT ON COLUMN internal.coverage.stage IS 'Stage at which the visit ended';
COMMENT ON COLUMN internal.coverage.reason IS 'Why, in words';
COMMENT ON COLUMN internal.coverage.path IS 'File that stopped it';
COMMENT ON COLUMN internal.coverage.byte_offset IS 'Byte in that file';
COMMENT ON COLUMN internal.coverage.requests IS 'Requests spent on the model';
COMMENT ON COLUMN internal.coverage.bytes IS 'Bytes read for the model';
COMMENT ON COLUMN internal.coverage.seconds IS 'Seconds spent on the model';
COMMENT ON COLUMN internal.coverage.visited_at IS 'When, UTC';

CREATE TABLE internal.declared (
    model INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    position INTEGER NOT NULL,
    raw VARCHAR NOT NULL,
    name VARCHAR,
    parent INTEGER,
    relation VARCHAR,
    via VARCHAR NOT NULL,
    parent_revision VARCHAR,
    note VARCHAR
);
COMMENT ON TABLE internal.declared IS 'Parents that a model claims, as its newest read card, tags or config write them';
COMMENT ON COLUMN internal.declared.model IS 'Model that makes the claim';
COMMENT ON COLUMN internal.declared.revision IS 'Revision that makes the claim';
COMMENT ON COLUMN internal.declared.position IS 'Order of the claim, from 0';
COMMENT ON COLUMN internal.declared.raw IS 'The text as written';
COMMENT ON COLUMN internal.declared.name IS 'The model name it resolves to, NULL when it resolves to none';
COMMENT ON COLUMN internal.declared.parent IS 'Model id of that name; NULL makes no edge';
COMMENT ON COLUMN internal.declared.relation IS 'Claimed relation, NULL when none is claimed';
COMMENT ON COLUMN internal.declared.via IS 'Where it stands: front_matter, tag, config, adapter_config, mergekit, body';
COMMENT ON COLUMN internal.declared.parent_revision IS 'Claimed revision of the parent';
COMMENT ON COLUMN internal.declared.note IS 'Remark of the reader';

CREATE TABLE internal.edges (
    child INTEGER NOT NULL,
    child_revision INTEGER,
    parent INTEGER NOT NULL,
    parent_revision INTEGER,
    relation VARCHAR,
    detail JSON,
    declared BOOLEAN NOT NULL,
    declared_relation VARCHAR,
    inferred BOOLEAN NOT NULL,
    confidence DOUBLE,
    direction_confidence DOUBLE,
    share DOUBLE,
    evidence_id VARCHAR,
    first_seen_scan INTEGER NOT NULL,
    last_seen_scan INTEGER NOT NULL
);
COMMENT ON TABLE internal.edges IS 'Who comes from whom: one row a child and parent, claimed, inferred or both';
COMMENT ON COLUMN internal.edges.child IS 'Model id of the child';
COMMENT ON COLUMN internal.edges.child_revision IS 'Revision of the child that the edge was read from';
COMMENT ON COLUMN internal.edges.parent IS 'Model id of the parent';
COMMENT ON COLUMN internal.edges.parent_revision IS 'Revision of the parent whose weights were compared';
COMMENT ON COLUMN internal.edges.relation IS 'Relation inferred, else claimed';
COMMENT ON COLUMN internal.edges.detail IS 'Particulars of the transformation';
COMMENT ON COLUMN internal.edges.declared IS 'The child claims it';
COMMENT ON COLUMN internal.edges.declared_relation IS 'Relation that the child claims';
COMMENT ON COLUMN internal.edges.inferred IS 'The weights say it';
COMMENT ON COLUMN internal.edges.confidence IS 'Probability of the inferred edge';
COMMENT ON COLUMN internal.edges.direction_confidence IS 'Probability that the direction is right, given the pair';
COMMENT ON COLUMN internal.edges.share IS 'Merge weight of the parent';
COMMENT ON COLUMN internal.edges.evidence_id IS 'Group of evidence rows';
COMMENT ON COLUMN internal.edges.first_seen_scan IS 'Scan that first had the edge';
COMMENT ON COLUMN internal.edges.last_seen_scan IS 'Scan that last confirmed the edge';

CREATE TABLE internal.candidates (
    child INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    score DOUBLE NOT NULL,
    rejected_because VARCHAR NOT NULL
);
COMMENT ON TABLE internal.candidates IS 'Runners-up: parents that were considered and lost';
COMMENT ON COLUMN internal.candidates.child IS 'Model id of the child';
COMMENT ON COLUMN internal.candidates.parent IS 'Model id of the parent that lost';
COMMENT ON COLUMN internal.candidates.rank IS 'Place among the losers, from 1';
COMMENT ON COLUMN internal.candidates.score IS 'Distance to the child relative to the norm of the candidate';
COMMENT ON COLUMN internal.candidates.rejected_because IS 'Why it lost';

CREATE TABLE internal.evidence (
    evidence_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    statistic VARCHAR NOT NULL,
    value DOUBLE NOT NULL,
    llr DOUBLE NOT NULL,
    ci_low DOUBLE,
    ci_high DOUBLE,
    n BIGINT,
    p_value DOUBLE,
    code_version VARCHAR,
    inputs_digest VARCHAR
);
COMMENT ON TABLE internal.evidence IS 'Typed clues for edges and findings';
COMMENT ON COLUMN internal.evidence.evidence_id IS 'Groups the clues of one edge or finding';
COMMENT ON COLUMN internal.evidence.kind IS 'Kind of clue: distance, frozen, time, grid, ...';
COMMENT ON COLUMN internal.evidence.statistic IS 'What was measured';
COMMENT ON COLUMN internal.evidence.value IS 'Its value';
COMMENT ON COLUMN internal.evidence.llr IS 'Natural-log likelihood ratio; positive speaks for';
COMMENT ON COLUMN internal.evidence.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN internal.evidence.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN internal.evidence.n IS 'How many observations';
COMMENT ON COLUMN internal.evidence.p_value IS 'p-value under the null';
COMMENT ON COLUMN internal.evidence.code_version IS 'Version of the code that measured';
COMMENT ON COLUMN internal.evidence.inputs_digest IS 'Digest of the inputs it measured';

CREATE TABLE internal.closure (
    ancestor INTEGER NOT NULL,
    descendant INTEGER NOT NULL,
    distance SMALLINT NOT NULL,
    confidence DOUBLE NOT NULL
);
COMMENT ON TABLE internal.closure IS 'Every ancestor of every model over believed edges, sorted by ancestor';
COMMENT ON COLUMN internal.closure.ancestor IS 'Model id';
COMMENT ON COLUMN internal.closure.descendant IS 'Model id';
COMMENT ON COLUMN internal.closure.distance IS 'Edges on the shortest way';
COMMENT ON COLUMN internal.closure.confidence IS 'Weakest edge on the surest way; 0 when it rests on a claim alone';

CREATE TABLE internal.closure_up (
    descendant INTEGER NOT NULL,
    ancestor INTEGER NOT NULL,
    distance SMALLINT NOT NULL,
    confidence DOUBLE NOT NULL
);
COMMENT ON TABLE internal.closure_up IS 'The closure sorted by descendant';
COMMENT ON COLUMN internal.closure_up.descendant IS 'Model id';
COMMENT ON COLUMN internal.closure_up.ancestor IS 'Model id';
COMMENT ON COLUMN internal.closure_up.distance IS 'Edges on the shortest way';
COMMENT ON COLUMN internal.closure_up.confidence IS 'Weakest edge on the surest way; 0 when it rests on a claim alone';

CREATE TABLE internal.scores (
    model INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    probe VARCHAR NOT NULL,
    probe_version VARCHAR NOT NULL,
    prompt_set VARCHAR NOT NULL,
    n BIGINT NOT NULL,
    status VARCHAR NOT NULL,
    value DOUBLE,
    ci_low DOUBLE,
    ci_high DOUBLE,
    unit VARCHAR NOT NULL,
    judge VARCHAR NOT NULL,
    corrected BOOLEAN NOT NULL,
    environment JSON NOT NULL,
    seconds DOUBLE NOT NULL,
    scored_at TIMESTAMP NOT NULL,
    scan INTEGER NOT NULL
);
COMMENT ON TABLE internal.scores IS 'Probe results: one row a revision, probe version, prompt set and judge';
COMMENT ON COLUMN internal.scores.model IS 'Model id';
COMMENT ON COLUMN internal.scores.revision IS 'Revision id';
COMMENT ON COLUMN internal.scores.probe IS 'Probe name';
COMMENT ON COLUMN internal.scores.probe_version IS 'Version of the probe';
COMMENT ON COLUMN internal.scores.prompt_set IS 'Digest of the prompt set';
COMMENT ON COLUMN internal.scores.n IS 'Prompts scored';
COMMENT ON COLUMN internal.scores.status IS 'ok, inconclusive, unsupported or error';
COMMENT ON COLUMN internal.scores.value IS 'The estimate';
COMMENT ON COLUMN internal.scores.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN internal.scores.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN internal.scores.unit IS 'Unit of the value';
COMMENT ON COLUMN internal.scores.judge IS 'What graded the answers';
COMMENT ON COLUMN internal.scores.corrected IS 'Corrected for the error rates of the judge';
COMMENT ON COLUMN internal.scores.environment IS 'Software, hardware and decoding it ran under';
COMMENT ON COLUMN internal.scores.seconds IS 'Seconds it took';
COMMENT ON COLUMN internal.scores.scored_at IS 'When, UTC';
COMMENT ON COLUMN internal.scores.scan IS 'Scan that wrote it';

CREATE TABLE internal.findings (
    finding_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    severity VARCHAR NOT NULL,
    model INTEGER NOT NULL,
    ancestor INTEGER,
    value DOUBLE,
    ci_low DOUBLE,
    ci_high DOUBLE,
    q_value DOUBLE,
    status VARCHAR NOT NULL,
    evidence_id VARCHAR,
    detail JSON,
    first_scan INTEGER NOT NULL,
    last_scan INTEGER NOT NULL
);
COMMENT ON TABLE internal.findings IS 'What a release owner should look at';
COMMENT ON COLUMN internal.findings.finding_id IS 'Stable over scans';
COMMENT ON COLUMN internal.findings.kind IS 'stripped_safety, undeclared_parent, misdeclared_parent, unsafe_file, ...';
COMMENT ON COLUMN internal.findings.severity IS 'How bad';
COMMENT ON COLUMN internal.findings.model IS 'Model id';
COMMENT ON COLUMN internal.findings.ancestor IS 'Model id of the ancestor it is measured against';
COMMENT ON COLUMN internal.findings.value IS 'Size of what was found';
COMMENT ON COLUMN internal.findings.ci_low IS 'Lower end of the 95 % interval';
COMMENT ON COLUMN internal.findings.ci_high IS 'Upper end of the 95 % interval';
COMMENT ON COLUMN internal.findings.q_value IS 'p-value after correction for all comparisons';
COMMENT ON COLUMN internal.findings.status IS 'new, open, fixed or ignored';
COMMENT ON COLUMN internal.findings.evidence_id IS 'Group of evidence rows';
COMMENT ON COLUMN internal.findings.detail IS 'Particulars';
COMMENT ON COLUMN internal.findings.first_scan IS 'Scan that first had it';
COMMENT ON COLUMN internal.findings.last_scan IS 'Scan that last had it';

CREATE TABLE internal.prompt_sets (
    digest VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    license VARCHAR NOT NULL,
    origin VARCHAR,
    n_harmful INTEGER NOT NULL,
    n_harmless INTEGER NOT NULL,
    added_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE internal.prompt_sets IS 'Prompt sets that scores refer to; the prompts themselves are not kept';
COMMENT ON COLUMN internal.prompt_sets.digest IS 'Digest of the prompts: the version';
COMMENT ON COLUMN internal.prompt_sets.name IS 'Name';
COMMENT ON COLUMN internal.prompt_sets.license IS 'License of the prompts';
COMMENT ON COLUMN internal.prompt_sets.origin IS 'Where the prompts come from';
COMMENT ON COLUMN internal.prompt_sets.n_harmful IS 'Harmful prompts';
COMMENT ON COLUMN internal.prompt_sets.n_harmless IS 'Harmless prompts';
COMMENT ON COLUMN internal.prompt_sets.added_at IS 'When it was first used here, UTC';

CREATE TABLE internal.probes (
    probe VARCHAR NOT NULL,
    probe_version VARCHAR NOT NULL,
    tier VARCHAR NOT NULL,
    unit VARCHAR NOT NULL,
    description VARCHAR NOT NULL
);
COMMENT ON TABLE internal.probes IS 'Definitions of the probes that scores refer to';
COMMENT ON COLUMN internal.probes.probe IS 'Name';
COMMENT ON COLUMN internal.probes.probe_version IS 'Version';
COMMENT ON COLUMN internal.probes.tier IS 'Cost: metadata, sketch, weights, forward, generation';
COMMENT ON COLUMN internal.probes.unit IS 'Unit of its value';
COMMENT ON COLUMN internal.probes.description IS 'What it measures';

CREATE TABLE internal.changes (
    scan INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    subject VARCHAR NOT NULL,
    before VARCHAR,
    after VARCHAR,
    changed_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE internal.changes IS 'What a scan found different from what the store held';
COMMENT ON COLUMN internal.changes.scan IS 'Scan that saw it';
COMMENT ON COLUMN internal.changes.kind IS 'renamed, revision, removed, returned, claim_added, claim_removed, edge_added, edge_removed, edge_changed, finding_new, finding_fixed';
COMMENT ON COLUMN internal.changes.subject IS 'Model, child <- parent, or finding';
COMMENT ON COLUMN internal.changes.before IS 'Before';
COMMENT ON COLUMN internal.changes.after IS 'After';
COMMENT ON COLUMN internal.changes.changed_at IS 'When it was seen, UTC';

-- What the loss of a prediction that is to be labelled counts: the window's mean chance by its own. They go with the prediction.
UPDATE wanted SET wanted = wanted || jsonb_build_object('weight', least(2, asked.n / ((wanted->'rows')::float8 * (wanted->'chance')::float8)))
FROM (
    SELECT model, wanted->'version' AS version, wanted->'from_ms' AS from_ms, wanted->'to_ms' AS to_ms, count(*) AS n
    FROM wanted GROUP BY 1, 2, 3, 4
) AS asked
WHERE asked.model = wanted.model AND asked.version = wanted->'version' AND asked.from_ms = wanted->'from_ms'
  AND asked.to_ms = wanted->'to_ms';

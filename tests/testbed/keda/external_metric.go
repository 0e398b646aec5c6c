package scalers

// externalMetricType is what every scaler of a metric calls it; KEDA says so in one of those that are left out.
const externalMetricType = "External"

"""Kernels, neighbours, naive Bayes, perceptrons and clusters of scikit-learn."""

from __future__ import annotations

from sklearn import calibration, cluster, gaussian_process, naive_bayes, neighbors, neural_network, svm
from sklearn import kernel_ridge as kernel

from tests.families import rows
from tests.families.making import case, scaled, unlabelled

CASES = (
    case("svc-rbf", "SVC (rbf): scores", lambda: scaled(svm.SVC()), rows.cancer),
    case("svc-multiclass", "SVC (rbf), 10 classes: scores", svm.SVC, rows.digits),
    case(
        "svc-poly",
        "SVC (poly, one against one): scores",
        lambda: scaled(svm.SVC(kernel="poly", decision_function_shape="ovo")),
        rows.wine,
    ),
    case(
        "svc-calibrated",
        "SVC in CalibratedClassifierCV",
        lambda: calibration.CalibratedClassifierCV(scaled(svm.SVC()), cv=3, ensemble=False),
        rows.wine,
    ),
    case("nu-svc", "NuSVC: scores", lambda: scaled(svm.NuSVC()), rows.cancer),
    case("svr", "SVR (rbf)", lambda: scaled(svm.SVR(C=100.0)), rows.diabetes),
    case("nu-svr", "NuSVR (sigmoid)", lambda: scaled(svm.NuSVR(kernel="sigmoid")), rows.diabetes),
    case("one-class-svm", "OneClassSVM: scores", lambda: scaled(svm.OneClassSVM(nu=0.1)), unlabelled(rows.cancer)),
    case("kernel-ridge", "KernelRidge", lambda: kernel.KernelRidge(kernel="rbf"), rows.diabetes),
    case(
        "gaussian-process",
        "GaussianProcessRegressor",
        lambda: gaussian_process.GaussianProcessRegressor(
            gaussian_process.kernels.RBF() + gaussian_process.kernels.WhiteKernel(), normalize_y=True
        ),
        rows.diabetes,
    ),
    case("neighbours", "KNeighborsClassifier", neighbors.KNeighborsClassifier, rows.digits),
    case(
        "neighbours-distance",
        "KNeighborsClassifier (weights by distance)",
        lambda: scaled(neighbors.KNeighborsClassifier(7, weights="distance")),
        rows.wine,
    ),
    case(
        "neighbours-manhattan",
        "KNeighborsClassifier (manhattan)",
        lambda: neighbors.KNeighborsClassifier(metric="manhattan"),
        rows.cancer,
    ),
    case(
        "neighbours-regressor",
        "KNeighborsRegressor (weights by distance)",
        lambda: scaled(neighbors.KNeighborsRegressor(weights="distance")),
        rows.weather,
    ),
    case("gaussian-nb", "GaussianNB", naive_bayes.GaussianNB, rows.wine),
    case("bernoulli-nb", "BernoulliNB", lambda: naive_bayes.BernoulliNB(binarize=7.0), rows.digits),
    case("multinomial-nb", "MultinomialNB", naive_bayes.MultinomialNB, rows.digits),
    case("complement-nb", "ComplementNB", naive_bayes.ComplementNB, rows.digits),
    case(
        "mlp",
        "MLPClassifier",
        lambda: neural_network.MLPClassifier(hidden_layer_sizes=(30,), max_iter=60, random_state=0),
        rows.digits,
    ),
    case(
        "mlp-regressor",
        "MLPRegressor (tanh)",
        lambda: scaled(
            neural_network.MLPRegressor(hidden_layer_sizes=(20,), activation="tanh", max_iter=60, random_state=0)
        ),
        rows.diabetes,
    ),
    case(
        "k-means",
        "KMeans: distances",
        lambda: scaled(cluster.KMeans(4, n_init=3, random_state=0)),
        unlabelled(rows.wine),
    ),
    case(
        "mini-batch-k-means",
        "MiniBatchKMeans: distances",
        lambda: cluster.MiniBatchKMeans(10, n_init=3, random_state=0),
        unlabelled(rows.digits),
    ),
)
